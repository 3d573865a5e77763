"""Questions about batches: creates that must work, creates that must be refused, cancelling, lists, and the SDK."""

import time
from itertools import islice
from typing import Any

from arislab.batch.connection import client_of
from arislab.batch.dialects import TERMINAL
from arislab.batch.doctor import examination
from arislab.batch.doctor.examination import Examination
from arislab.batch.doctor.wire import count, jsonl, listed, pairs, said
from arislab.batch.protocol import URL

FAULTY = (
    "duplicate custom_id refused",
    "bad JSON refused with its line",
    "wrong url refused",
    "stream refused",
)
"""Checks of files that must not run."""


def creates(exam: Examination) -> None:
    """Make one good batch, try four faulty files and three wrong creates, and ask twice for one batch by its key."""
    status, reply = exam.create(exam.input_id)
    wrong = [
        f"{name} {reply.get(name)!r}"
        for name, fits in {
            "id": isinstance(reply.get("id"), str),
            "object": reply.get("object") == "batch",
            "endpoint": reply.get("endpoint") == URL,
            "input_file_id": reply.get("input_file_id") == exam.input_id,
            "completion_window": reply.get("completion_window") == "24h",
            "created_at": isinstance(reply.get("created_at"), int),
        }.items()
        if not fits
    ]
    usable = status == 200 and isinstance(reply.get("id"), str)
    finding = f"{status}: {said(reply)}" if status != 200 else ", ".join(wrong) or f"status {reply.get('status')}"
    exam.note("create", usable and not wrong, finding, bridged=usable)
    if usable:
        exam.made("good", reply)
    else:
        exam.stopped = "not reached: no batch can be created"
        return
    one = exam.line("one")
    faulty = (
        jsonl([one, one]),
        jsonl([one]) + b'{"custom_id": "x", \n',
        jsonl([exam.line("url", url="/v1/moderations")]),
        jsonl([exam.line("stream", stream=True)]),
    )
    for name, content in zip(FAULTY, faulty, strict=True):
        _try(exam, name, content)
    _refusals(exam)
    status, uploaded = exam.upload(jsonl([exam.line("again")]))
    twice = [exam.create(uploaded.get("id"), headers={"Idempotency-Key": exam.mark})[1].get("id") for _ in range(2)]
    good = twice[0] == twice[1] if all(twice) else None
    finding = "two creates made two batches" if good is False else "two creates, one batch"
    exam.note("Idempotency-Key", good, finding if all(twice) else "the creates were refused")
    for n, batch_id in enumerate(dict.fromkeys(i for i in twice if i)):
        exam.made(f"again{n}", {"id": batch_id})


def _refusals(exam: Examination) -> None:
    bad: dict[str, dict[str, Any]] = {
        "endpoint": {"endpoint": "/v1/doctor"},
        "completion_window": {"completion_window": "7 years"},
        "input_file_id": {"input_file_id": "file-doctor0000"},
    }
    for name, changed in bad.items():
        status, reply = exam.create(exam.input_id, **changed)
        if status == 200 and reply.get("id"):
            exam.made(f"create {name}", reply)  # it may fail later, which is a refusal too
            exam.taken.append(name)
        elif not 400 <= status < 500:
            exam.taken.append(f"{name} ({status})")


def _try(exam: Examination, name: str, content: bytes) -> None:
    """Upload a faulty file and create its batch; a refusal in any step is what is hoped for."""
    status, reply = exam.upload(content)
    step = "upload"
    if status == 200:
        step = "create"
        status, reply = exam.create(reply.get("id"))
    if status == 200 and reply.get("id"):
        exam.made(name, reply)
    else:
        exam.refused[name] = f"at {step}: {status}: {said(reply)}"


def cancelling(exam: Examination) -> None:
    """Delete the input of a running batch, then cancel it."""
    if "good" not in exam.batches:
        return
    lines = [exam.line(f"long-{n}", "Count to twenty.", max_tokens=32) for n in range(10)]
    _, uploaded = exam.upload(jsonl(lines))
    status, reply = exam.create(uploaded.get("id"))
    if status != 200 or not reply.get("id"):
        exam.note("cancel keeps what is done", None, f"create: {status}: {said(reply)}")
        return
    exam.made("long", reply)
    # touched as soon as one line is done: what is done must survive, and the rest must still be running
    until, done = min(exam.until, time.monotonic() + 30), 0
    while time.monotonic() < until:
        now = exam.look("long")
        done = count(now, "completed")
        if done or exam.status(now) in TERMINAL:
            break
        time.sleep(2 * examination.LOOK_S)
    if exam.status(exam.batches["long"]) in TERMINAL:
        finding = f"the batch was {exam.status(exam.batches['long'])} before it could be touched"
        exam.note("running input is safe", None, finding)
        exam.note("cancel keeps what is done", None, finding)
        return
    status, reply, raw = exam.wire.ask("DELETE", f"/files/{uploaded['id']}")
    finding = "deleted while its batch ran" if status == 200 else f"{status}: {said(reply, raw)}"
    exam.note("running input is safe", 400 <= status < 500, finding)
    status, reply, raw = exam.wire.ask("POST", f"/batches/{exam.batches['long']['id']}/cancel")
    if status != 200:
        exam.note("cancel keeps what is done", False, f"{status}: {said(reply, raw)}")
        return
    exam.wait(["long"])
    now = exam.batches["long"]
    n_kept = len(exam.lines_of(now, "output_file_id"))
    finding = f"{exam.status(now)}: {done} lines were done, {n_kept} are in the output file"
    good: bool | None = exam.status(now) == "cancelled" and n_kept >= done
    if good and not done:
        good, finding = None, "cancelled before a line was done"
    elif exam.status(now) == "completed":
        good = None
    exam.note("cancel keeps what is done", good, finding)


def listing(exam: Examination) -> None:
    """Pages of batches, an ended batch, and the SDK."""
    if "good" not in exam.batches:
        return
    _, page, raw = exam.wire.ask("GET", "/batches?limit=1")
    first = listed(page)
    page_ok = len(first) == 1 and isinstance(page, dict) and page.get("has_more") is True
    after = str(first[0].get("id")) if first else ""
    _, second, _ = exam.wire.ask("GET", f"/batches?limit=100&after={after}")
    rest = [str(batch.get("id")) for batch in listed(second)]
    whole = {after, *rest} >= {str(batch["id"]) for batch in exam.batches.values()} and after not in rest
    finding = f"{len(first)} of limit 1, then {len(rest)} more" if page_ok else f"limit=1 gave {said(page, raw)}"
    exam.note("batches are listed in pages", page_ok and whole, finding if whole else f"{finding}; some are missing")
    good = exam.batches["good"]
    if exam.status(good) in TERMINAL:
        status = exam.wire.ask("POST", f"/batches/{good['id']}/cancel")[0]
        time.sleep(0.05)
        now = exam.look("good")
        files = ("status", "output_file_id", "error_file_id", "request_counts")
        same = all(now.get(name) == good.get(name) for name in files)
        finding = f"cancel gave {status}, the batch is {now.get('status')} as before"
        changed = pairs({k: now.get(k) for k in files if now.get(k) != good.get(k)})
        exam.note("an ended batch stays ended", same, finding if same else f"cancel gave {status}; now {changed}")
    _sdk(exam)


def _sdk(exam: Examination) -> None:
    import openai

    client = client_of(exam.wire.url, exam.wire.key, credentials=exam.wire.credentials, timeout_s=exam.wire.timeout_s)
    batch_id = str(exam.batches["good"]["id"])
    wrong = []
    try:
        if client.batches.retrieve(batch_id).id != batch_id:
            wrong.append("batches.retrieve")
        if client.files.content(exam.input_id).content != exam.content:
            wrong.append("files.content")
        if len({batch.id for batch in islice(client.batches.list(limit=1), 2)}) != 2:
            wrong.append("batches.list does not page")
        if exam.model not in [m.id for m in client.models.list()]:
            wrong.append("models.list does not have the model")
    except openai.OpenAIError as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        client.close()
    fine = f"openai {openai.__version__}: models, files, batches"
    exam.note("openai SDK reads it", not wrong, ", ".join(wrong) or fine)
