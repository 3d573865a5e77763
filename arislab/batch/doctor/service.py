"""Questions to a server before any batch: its models, its keys, direct chat, and files."""

import time
from typing import Any

from arislab.batch.doctor.examination import Examination
from arislab.batch.doctor.wire import jsonl, listed, pairs, said, short
from arislab.batch.protocol import ANSWERED, outcome, parse
from arislab.errors import PrerequisiteError

_WEEK_S = 7 * 24 * 3600
_TRAP = "a\u2028b\rc\u0085d"
"""What ends a line for some readers, and none in JSON lines."""


def service(exam: Examination) -> None:
    """Models, keys, unknown ids, direct chat, response_format."""
    status, reply, raw = exam.wire.ask("GET", "/models")
    if status == 0:
        raise PrerequisiteError(f"nothing answers at {exam.wire.url} ({said(reply, raw)}); start the server first.")
    if status in (401, 403):
        raise PrerequisiteError(
            f"{exam.wire.url} refuses the key ({status}); set ARISLAB_API_KEY to one that it takes and try again."
        )
    names = [str(m["id"]) for m in listed(reply) if m.get("id")]
    exam.note("models are listed", bool(names), ", ".join(names[:3]) if names else f"{status}: {said(reply, raw)}")
    exam.model = exam.model or next(iter(names), "")
    if not exam.model:
        exam.stopped = "not reached: no model to ask; give --model"
        return
    given = {path: exam.wire.ask("GET", path, key=False)[0] for path in ("/models", "/files", "/batches")}
    open_ = [f"{path} -> {code}" for path, code in given.items() if code not in (401, 403)]
    exam.note("no key, no service", not open_, ", ".join(open_) + " without a key" if open_ else "401")
    paths = ("/batches/batch_doctor0000", "/files/file-doctor0000", "/files/file-doctor0000/content")
    codes = [exam.wire.ask("GET", path)[0] for path in paths]
    exam.note("unknown ids give 404", codes == [404] * 3, f"batch {codes[0]}, file {codes[1]}, file content {codes[2]}")
    _chat(exam)


def _chat(exam: Examination) -> None:
    status, reply, raw = exam.wire.ask("POST", "/chat/completions", exam.line("chat")["body"])
    read = outcome({"response": {"status_code": status, "body": reply}, "error": None}, "completed")
    exam.note(
        "direct chat",
        read["status"] in ANSWERED,
        f"{status}, {read['status']}" if status == 200 else f"{status}: {said(reply, raw)}",
    )
    kind: dict[str, Any] = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    kind |= {"additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": kind}}
    body = exam.line("schema", '{"ok": true}', response_format=form)["body"] | {"max_tokens": 32}
    status, reply, raw = exam.wire.ask("POST", "/chat/completions", body)
    text = outcome({"response": {"status_code": status, "body": reply}, "error": None}, "completed")["llm_output"]
    kept = text is not None and isinstance((parse(text.encode()) or {}).get("ok"), bool)
    finding = "the answer keeps the schema" if kept else f"the answer breaks the schema: {text!r}"
    exam.note("response_format", kept, finding if status == 200 else f"{status}: {said(reply, raw)}")


def files(exam: Examination) -> bool:
    """Uploads and what becomes of them; False if nothing can be uploaded."""
    names = ("order-3", "order-1", "trap", "order-2")
    lines = [exam.line(name, f"Say hello. {_TRAP if name == 'trap' else ''}") for name in names]
    lines.insert(2, exam.line("fails", temperature=-1))  # no engine can answer it, and no server refuses the file
    exam.content = jsonl(lines, ascii_only=False)
    now = time.time()
    status, reply = exam.upload(exam.content)
    if status != 200 and status != 404:
        plain = f"{status}: {said(reply)}"
        exam.upload_field = {"target_model_names": exam.model}
        status, reply = exam.upload(exam.content)
        if status == 200:
            exam.note("upload", False, f"{plain}; with target_model_names it works: dialect='litellm'", bridged=True)
    if status != 200 or not reply.get("id"):
        exam.note("upload", False, f"{status}: {said(reply)}" + ("; no Files API here" if status == 404 else ""))
        exam.stopped = "not reached: nothing can be uploaded"
        return False
    exam.findings.setdefault("upload", ("holds", f"{len(exam.content)} bytes as {short(str(reply['id']), 40)}", None))
    exam.input_id = str(reply["id"])
    _stored(exam, reply, now)
    return True


def _stored(exam: Examination, reply: dict[str, Any], now: float) -> None:
    status, _, raw = exam.wire.ask("GET", f"/files/{exam.input_id}/content")
    same = status == 200 and raw == exam.content
    finding = "equal" if same else f"{status}: {len(raw)} bytes, {len(exam.content)} were sent"
    exam.note("content byte for byte", same, finding + ", with U+2028, U+0085 and \\r inside" * same)
    wrong = {
        name: reply.get(name)
        for name, fits in {
            "object": reply.get("object") == "file",
            "bytes": reply.get("bytes") == len(exam.content),
            "purpose": reply.get("purpose") == "batch",
            "filename": reply.get("filename") == f"{exam.mark}.jsonl",
            "created_at": isinstance(reply.get("created_at"), int),
        }.items()
        if not fits
    }
    exam.note("file object", not wrong, pairs(wrong) or "object, bytes, purpose, filename, created_at")
    # against the server's own clock, which may be far off
    born, dies = reply.get("created_at") or now, reply.get("expires_at")
    if isinstance(dies, int | float) and isinstance(born, int | float):
        exam.note("files kept a week", dies - born >= _WEEK_S, f"{(dies - born) / 3600:,.0f} h")
    else:
        exam.note("files kept a week", None, "the server does not say when a file expires")
    status, other = exam.upload(b"{}\n", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"})
    born, dies = other.get("created_at"), other.get("expires_at")
    kept = isinstance(born, int) and isinstance(dies, int) and abs(dies - born - 7200) <= 60
    finding = "7200 s" if kept else f"asked for 7200 s: expires_at {dies!r}, created_at {born!r}"
    exam.note("expires_after", kept, finding if status == 200 else f"{status}: {said(other)}")
    status, page, raw = exam.wire.ask("GET", "/files?purpose=batch&limit=100")
    has = any(file.get("id") == exam.input_id for file in listed(page))
    exam.note("files are listed", has, "the file is there" if has else f"{status}: not there, {said(page, raw)}")
