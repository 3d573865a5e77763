"""How the batches ended: the faulty ones, the words and steps of their statuses, and what the good one brought."""

from arislab.batch.dialects import STATUSES, TERMINAL
from arislab.batch.doctor import batches, lines
from arislab.batch.doctor.examination import WORDS, Examination
from arislab.batch.doctor.wire import listed

_NEXT = {
    "": STATUSES,
    "validating": ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"),
    "in_progress": ("finalizing", "completed", "expired", "cancelling", "cancelled", "failed"),
    "finalizing": ("completed", "expired", "cancelling", "cancelled", "failed"),
    "cancelling": ("cancelled",),
}
"""Status -> what may come next."""


def results(exam: Examination) -> None:
    """Wait for all batches, and read what they brought."""
    if "good" not in exam.batches:
        return
    exam.wait(list(exam.batches))
    for name in batches.FAULTY:
        _faulty(exam, name)
    later = [n for n in exam.taken if exam.status(exam.batches.get(f"create {n}", {})) == "failed"]
    run = ", ".join(n for n in exam.taken if n not in later)
    exam.note("bad creates are refused", not run, f"taken: {run}" if run else "endpoint, window, file id")
    good = exam.batches["good"]
    kept = good.get("metadata") == {"doctor": exam.mark}
    exam.note("metadata is kept", kept, "kept" if kept else f"{good.get('metadata')!r}")
    _statuses(exam)
    if exam.status(good) not in TERMINAL:
        exam.stopped = f"not reached: a batch of 5 requests was still {good.get('status')!r} when patience ended"
        return
    lines.read(exam, good)


def _faulty(exam: Examination, name: str) -> None:
    """What became of a file that must not run."""
    if name in exam.refused:
        exam.note(name, True, exam.refused[name])
        return
    now = exam.batches[name]
    if exam.status(now) == "failed":
        errors = listed(now.get("errors"))
        first = errors[0] if errors else {}
        finding = f"failed, line {first.get('line')}: {first.get('message')}"
        numbered = first.get("line") == 2 or "line 2" in str(first.get("message"))
        exam.note(name, numbered or "its line" not in name, finding)
    elif name in ("wrong url refused", "stream refused") and exam.lines_of(now, "error_file_id"):
        exam.note(name, not exam.lines_of(now, "output_file_id"), "the line fails by itself")
    elif exam.status(now) in TERMINAL:
        exam.note(name, False, f"the batch is {now.get('status')}, nothing was refused")
    else:
        exam.note(name, None, f"still {now.get('status')!r} when patience ended")


def _statuses(exam: Examination) -> None:
    words = {word for path in exam.path.values() for word in path}
    strange = sorted(words - set(STATUSES))
    steps = [(a, b) for path in exam.path.values() for a, b in zip(["", *map(WORDS.status, path)], path, strict=False)]
    wrong = [f"{a} -> {b}" for a, b in steps if a not in TERMINAL and WORDS.status(b) not in (a, *_NEXT[a])]
    ended = all(exam.status(batch) in TERMINAL for batch in exam.batches.values())
    odd = [f"{word!r} is none of OpenAI's" for word in strange] + wrong
    if not ended:
        stuck = sorted({str(b.get("status")) for b in exam.batches.values() if exam.status(b) not in TERMINAL})
        odd.append(f"still {', '.join(stuck)} when patience ended")
    fine: bool | None = not strange and not wrong
    words_seen = ", ".join(odd) or " -> ".join(exam.path["good"])
    exam.note("statuses are OpenAI's", None if fine and not ended else fine, words_seen, bridged=ended)
