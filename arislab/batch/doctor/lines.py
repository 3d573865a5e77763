"""Questions to the lines of the good batch: are all there, have they OpenAI's form, and do the sums hold?

Whether the client can read a line is asked of the client's own reader (``protocol.outcome``).
"""

from typing import Any

from arislab.batch.doctor.examination import Examination
from arislab.batch.doctor.wire import pairs
from arislab.batch.protocol import ANSWERED, outcome, parse, split


def read(exam: Examination, good: dict[str, Any]) -> None:
    """Examine the lines of the good batch."""
    out, err = exam.lines_of(good, "output_file_id"), exam.lines_of(good, "error_file_id")
    sent = [str(line["custom_id"]) for line in (parse(raw) or {} for raw in split(exam.content))]
    names = [str((line or {}).get("custom_id")) for line in (*out, *err)]
    missing, foreign = sorted(set(sent) - set(names)), sorted(set(names) - set(sent))
    doubled = len(names) - len(set(names))
    sums = f"{len(missing)} missing, {doubled} doubled, {len(foreign)} unknown of {len(sent)}"
    fine = not (missing or foreign or doubled)
    order = [name for name in sent if name in names[: len(out)]] == names[: len(out)]
    exam.note(
        "every line comes once",
        fine,
        f"all {len(sent)}, in {'the order sent' if order else 'another order'}" if fine else sums,
        bridged=bool(set(sent) & set(names)),
    )
    fails = f"{exam.mark}-fails"
    answers = [line for line in (*out, *err) if line and line.get("custom_id") != fails]
    _forms(exam, answers)
    _failed_line(exam, fails, out, err)
    counts = good.get("request_counts") if isinstance(good.get("request_counts"), dict) else {}
    want = {"total": len(sent), "completed": len(out), "failed": len(err)}
    stated = {name: (counts or {}).get(name) for name in want}
    exam.note("counts add up", stated == want, pairs(stated) + ("" if stated == want else f"; files say {pairs(want)}"))
    usage = good.get("usage") if isinstance(good.get("usage"), dict) else {}
    outcomes = [outcome(line, "completed") for line in answers]
    total = sum((r["prompt_tokens"] or 0) + (r["completion_tokens"] or 0) for r in outcomes)
    per_line = all(r["prompt_tokens"] is not None for r in outcomes) and bool(outcomes)
    reported = (usage or {}).get("total_tokens")
    finding = f"batch {reported!r}, lines {total if per_line else 'without usage'}"
    exam.note("usage is reported", per_line and reported == total, finding, bridged=per_line)
    models = sorted({str(r["model_returned"]) for r in outcomes})
    exam.note("model is the one asked for", models == [exam.model], ", ".join(models) or "no line answered")


def _forms(exam: Examination, answers: list[dict[str, Any]]) -> None:
    """The envelope of lines that have an answer; whether the client reads them is asked of its reader."""
    wrong: set[str] = set()
    for line in answers:
        response = line.get("response")
        if not isinstance(response, dict):
            wrong.add("response is no object")
            continue
        body = response.get("body")
        if isinstance(body, str):
            wrong.add("response.body is a JSON string, not an object")
        elif not isinstance(body, dict):
            wrong.add(f"response.body is {type(body).__name__}")
        if response.get("status_code") != 200:
            wrong.add(f"status_code {response.get('status_code')!r}")
        if line.get("error") is not None:
            wrong.add("error is not null")
        if not isinstance(line.get("id"), str):
            wrong.add("no id")
    readable = bool(answers) and all(outcome(line, "completed")["status"] in ANSWERED for line in answers)
    finding = ", ".join(sorted(wrong)) or ("id, custom_id, response, error" if answers else "no line came")
    if not readable and answers:
        first = next(o for line in answers if (o := outcome(line, "completed"))["status"] not in ANSWERED)
        finding += f"; read as {first['status']}: {first['error']}"
    exam.note("lines have OpenAI's form", readable and not wrong, finding, bridged=readable)


def _failed_line(exam: Examination, name: str, out: list[Any], err: list[Any]) -> None:
    """The line with temperature -1."""
    inside = [(line, place) for place, lines in (("output", out), ("error", err)) for line in lines if line]
    line, place = next(((x, where) for x, where in inside if x.get("custom_id") == name), (None, ""))
    check = "a failed line is an error"
    if line is None:
        exam.note(check, False, "the line with temperature -1 did not come")
        return
    read = outcome(line, "completed")
    if read["status"] in ANSWERED:
        exam.note(check, None, "the engine answered a request with temperature -1")
        return
    response = line.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    error = line.get("error") or (body.get("error") if isinstance(body, dict) else None)
    wrong = ["it stands in the output file"] * (place == "output")
    wrong += [] if isinstance(error, dict) else [f"its error is {type(error).__name__}, not an object"]
    wrong += ["it has a response and an error"] * bool(line.get("error") and isinstance(response, dict))
    exam.note(check, not wrong, ", ".join(wrong) or f"in the error file, read as {read['status']}: {read['error']}")
