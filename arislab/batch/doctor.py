"""Examine any server of the OpenAI Files + Batches protocol.

What holds, what deviates, and what the client does about it.

About 30 tiny requests in nine small batches, over raw HTTP as the openai SDK would send them, and once through the SDK
itself. Whether the client can read a line is asked of the client's own reader (``protocol.outcome``). This module does
not know ledgers or tasks.
"""

import http.client
import json
import os
import secrets
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from arislab.batch.connection import client_of
from arislab.batch.dialects import DIALECTS, STATUSES, TERMINAL
from arislab.batch.protocol import ANSWERED, URL, outcome, parse, split
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import masking

COLUMNS = {"check": pl.String, "verdict": pl.String, "seen": pl.String, "client": pl.String, "bridged": pl.Boolean}
CHECKS: dict[str, tuple[bool, str]] = {
    "models are listed": (False, "needs the list: it refuses a model that the server does not name"),
    "no key, no service": (True, "sends its key all the same; whoever reaches this server can read your prompts"),
    "unknown ids give 404": (False, "tells a lost batch by 404; here it would wait and then stop with an error"),
    "direct chat": (True, "asks nothing about schemas: they are checked after the answers came"),
    "response_format": (True, "leaves the schema out of the request; answers are checked against it in any case"),
    "upload": (False, "cannot send anything"),
    "content byte for byte": (False, "cannot know which prompts were answered"),
    "file object": (True, "needs the id only"),
    "expires_after": (True, "collects when a batch ends, not later"),
    "files kept a week": (True, "collects when a batch ends; dialects llm_d and control_layer ask for 30 days"),
    "files are listed": (True, "finds lost creates by batches, not by files"),
    "create": (False, "cannot send anything"),
    "bad creates are refused": (True, "never sends such a create"),
    "metadata is kept": (True, "finds a lost create by the name of its file, else stops rather than pay twice"),
    "Idempotency-Key": (True, "never repeats a create; looks for a lost one in the list"),
    "duplicate custom_id refused": (True, "never writes one id twice; doubled answers are joined or quarantined"),
    "bad JSON refused with its line": (True, "writes valid ASCII JSON only"),
    "wrong url refused": (True, "writes the url of the batch"),
    "stream refused": (True, "never asks for a stream"),
    "statuses are OpenAI's": (True, "maps the words that it knows; any other counts as in progress"),
    "every line comes once": (True, "joins by custom_id; what did not come is asked again, three times at most"),
    "lines have OpenAI's form": (True, "reads this form too"),
    "a failed line is an error": (True, "reads both files, and errors in any of them"),
    "counts add up": (True, "counts lines itself"),
    "usage is reported": (True, "adds up the usage of the lines"),
    "model is the one asked for": (True, "records the model asked for and the one returned"),
    "batches are listed in pages": (True, "cannot look for a lost create: it stops and says so, and never sends twice"),
    "running input is safe": (True, "never deletes the input of a running batch"),
    "cancel keeps what is done": (False, "loses answers that were paid for; do not cancel here"),
    "an ended batch stays ended": (False, "collects once: what changes later is not seen"),
    "openai SDK reads it": (False, "is built on the SDK"),
}
"""check -> whether the client copes if it deviates, and how (or what it costs)."""
_NEXT = {
    "": STATUSES,
    "validating": ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"),
    "in_progress": ("finalizing", "completed", "expired", "cancelling", "cancelled", "failed"),
    "finalizing": ("completed", "expired", "cancelling", "cancelled", "failed"),
    "cancelling": ("cancelled",),
}
_WEEK_S = 7 * 24 * 3600
_WORDS = DIALECTS["openai"]
_TRAP = "a\u2028b\rc\u0085d"


def diagnose(
    server_url: str, key: str, *, model: str = "", patience_s: float = 900, timeout_s: float = 60
) -> pl.DataFrame:
    """Run all checks and return one row per check: check, verdict, seen, client, bridged.

    ``verdict`` is holds, deviates or unknown (not reached, or not decidable here); ``seen`` what the server did;
    ``client`` what arislab's client does if it deviates; ``bridged`` false where a deviation keeps the client from
    working or loses answers.

    Args:
        server_url: Base URL, ending in /v1.
        key: Bearer token; written nowhere.
        model: Name to ask for; default the first that the server lists.
        patience_s: Longest wait for the batches to end.
        timeout_s: Longest wait for one HTTP reply.

    Raises:
        ParameterError: Not a URL, or no possible key.
        PrerequisiteError: Nothing answers there, or the key is refused.
    """
    shown = masking.masked(server_url)
    server_url, credentials = masking.take_apart(server_url)
    if not _is_url(server_url):
        raise ParameterError(f"--base-url must be a URL such as http://127.0.0.1:8000/v1, got {shown!r}.")
    if not (key.isascii() and key.isprintable()):
        raise ParameterError("the key holds characters that no HTTP header can carry; look at $ARISLAB_API_KEY.")
    exam = _Examination(server_url.rstrip("/"), key, model, patience_s, timeout_s, credentials=credentials)
    try:
        exam.service()
        if exam.model and exam.files():
            exam.creates()
            exam.cancelling()
            exam.results()
            exam.listing()
    finally:
        exam.tidy()
    rows = []
    for check, (bridged, client) in CHECKS.items():
        verdict, seen, told = exam.found.get(check, ("unknown", exam.stopped, None))
        copes = bridged if told is None else told
        seen = masking.without(seen, masking.secrets_of({**os.environ, "KEY": key}))
        rows.append((check, verdict, seen, client if verdict == "deviates" else "", copes or verdict != "deviates"))
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")  # one row per check


def as_text(frame: pl.DataFrame) -> str:
    """Return the table of ``diagnose`` as aligned lines, and a last line that counts the verdicts."""
    width = max(len(check) for check in frame["check"])
    lines = []
    for row in frame.to_dicts():
        lines.append(f"{row['check']:<{width}}  {row['verdict']:<8}  {row['seen']}".rstrip())
        if row["client"]:
            lines.append(f"{'':<{width}}  {'client' if row['bridged'] else 'CLIENT':<8}  {row['client']}")
    counts = dict(frame["verdict"].value_counts().iter_rows())
    summed = " + ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in ("holds", "deviates", "unknown"))
    n_open = frame.filter(~pl.col("bridged")).height
    return "\n".join([*lines, f"{frame.height} checks = {summed}; {n_open} deviations that the client cannot bridge"])


class _Examination:
    """One server under examination: what was made there, and what was found."""

    def __init__(
        self, url: str, key: str, model: str, patience_s: float, timeout_s: float, *, credentials: str | None = None
    ) -> None:
        self.url, self.model = url, model
        self.key = None if key in ("", "none") else key
        self.credentials = credentials
        """user:password of the URL, sent where there is no key."""
        self.until, self.timeout_s = time.monotonic() + patience_s, timeout_s
        self.found: dict[str, tuple[str, str, bool | None]] = {}
        self.stopped = "not reached"
        self.mark = f"doctor-{secrets.token_hex(4)}"
        self.files_made: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        """Batches made, by their name here; what the server last said of them."""
        self.path: dict[str, list[str]] = {}
        """Statuses seen of each batch, without repetitions."""
        self.refused: dict[str, str] = {}
        """What was said to a file or create that was refused, by the batch's name here."""
        self.upload_field: dict[str, str] = {}
        self.content = b""

    # -- asking ---------------------------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, key: bool = True
    ) -> tuple[int, Any, bytes]:
        """Return status, parsed JSON (null if it is none) and bytes.

        Status 0 if no reply came. 429 and 503 are asked again.
        """
        parts = urlsplit(self.url + path)
        by_name = masking.basic(self.credentials) if self.credentials and not self.key else None
        sent = {"Authorization": by_name or f"Bearer {self.key or 'none'}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        if data is not None:
            sent["Content-Type"] = "application/json"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        for pause_s in (1, 4, 15, 0):
            connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
            try:
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request(method, target, data, {**sent, **(headers or {})})
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException) as error:
                return 0, {"error": {"message": f"no reply: {type(error).__name__}: {error}"}}, b""
            finally:
                connection.close()
            if reply.status not in (429, 503) or not pause_s:
                break
            time.sleep(pause_s)
        try:
            told = json.loads(content)
        except (json.JSONDecodeError, UnicodeDecodeError):
            told = None
        return reply.status, told, content

    def upload(self, content: bytes, **fields: str) -> tuple[int, dict[str, Any]]:
        """Send a file as a multipart form."""
        edge = secrets.token_hex(16)
        form = {"purpose": "batch", **self.upload_field, **fields}
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in form.items()
        ]
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{self.mark}.jsonl"\r\nContent-Type: application/octet-stream\r\n\r\n'
        body = b"".join([*parts, head.encode(), content, f"\r\n--{edge}--\r\n".encode()])
        status, told, raw = self.ask(
            "POST", "/files", body, headers={"Content-Type": f"multipart/form-data; boundary={edge}"}
        )
        told = _object(told, raw)
        if status == 200 and told.get("id"):
            self.files_made.append(str(told["id"]))
        return status, told

    def create(self, file_id: Any, *, headers: dict[str, str] | None = None, **changed: Any) -> tuple[int, Any]:
        """Create a batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": URL,
            "completion_window": "24h",
            "metadata": {"doctor": self.mark},
        }
        status, told, raw = self.ask("POST", "/batches", body | changed, headers=headers)
        return status, _object(told, raw)

    def note(self, check: str, good: Any, seen: str, *, bridged: bool | None = None) -> None:
        """Write down a finding; ``good`` is a truth, or null for unknown, ``bridged`` null what ``CHECKS`` says."""
        assert check in CHECKS, check
        verdict = "unknown" if good is None else "holds" if good else "deviates"
        self.found[check] = (verdict, _short(seen), bridged)

    def line(self, name: str, text: str = "Say hello.", **changed: Any) -> dict[str, Any]:
        """One request, as an object."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        whole = {"custom_id": f"{self.mark}-{name}", "method": "POST", "url": URL, "body": body}
        return {**whole, **{k: v for k, v in changed.items() if k in whole}} | {
            "body": body | {k: v for k, v in changed.items() if k not in whole}
        }

    # -- the checks -----------------------------------------------------------------------------------------------------

    def service(self) -> None:
        """Models, keys, unknown ids, direct chat, response_format."""
        status, told, raw = self.ask("GET", "/models")
        if status == 0:
            raise PrerequisiteError(f"nothing answers at {self.url} ({_said(told, raw)}); start the server first.")
        if status in (401, 403):
            raise PrerequisiteError(
                f"{self.url} refuses the key ({status}); set ARISLAB_API_KEY to one that it takes and try again."
            )
        names = [str(m["id"]) for m in _list(told) if m.get("id")]
        self.note("models are listed", bool(names), ", ".join(names[:3]) if names else f"{status}: {_said(told, raw)}")
        self.model = self.model or next(iter(names), "")
        if not self.model:
            self.stopped = "not reached: no model to ask; give --model"
            return
        given = {path: self.ask("GET", path, key=False)[0] for path in ("/models", "/files", "/batches")}
        open_ = [f"{path} -> {code}" for path, code in given.items() if code not in (401, 403)]
        self.note("no key, no service", not open_, ", ".join(open_) + " without a key" if open_ else "401")
        paths = ("/batches/batch_doctor0000", "/files/file-doctor0000", "/files/file-doctor0000/content")
        codes = [self.ask("GET", path)[0] for path in paths]
        self.note(
            "unknown ids give 404", codes == [404] * 3, f"batch {codes[0]}, file {codes[1]}, file content {codes[2]}"
        )
        self._chat()

    def _chat(self) -> None:
        status, told, raw = self.ask("POST", "/chat/completions", self.line("chat")["body"])
        read = outcome({"response": {"status_code": status, "body": told}, "error": None}, "completed")
        self.note(
            "direct chat",
            read["status"] in ANSWERED,
            f"{status}, {read['status']}" if status == 200 else f"{status}: {_said(told, raw)}",
        )
        kind: dict[str, Any] = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        kind |= {"additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": kind}}
        body = self.line("schema", '{"ok": true}', response_format=form)["body"] | {"max_tokens": 32}
        status, told, raw = self.ask("POST", "/chat/completions", body)
        text = outcome({"response": {"status_code": status, "body": told}, "error": None}, "completed")["llm_output"]
        kept = text is not None and isinstance((parse(text.encode()) or {}).get("ok"), bool)
        seen = "the answer keeps the schema" if kept else f"the answer breaks the schema: {text!r}"
        self.note("response_format", kept, seen if status == 200 else f"{status}: {_said(told, raw)}")

    def files(self) -> bool:
        """Uploads and what becomes of them; False if nothing can be uploaded."""
        names = (
            "order-3",
            "order-1",
            "trap",
            "order-2",
        )
        lines = [self.line(name, f"Say hello. {_TRAP if name == 'trap' else ''}") for name in names]
        lines.insert(2, self.line("fails", temperature=-1))
        self.content = _jsonl(lines, ascii_only=False)
        now = time.time()
        status, told = self.upload(self.content)
        if status != 200 and status != 404:
            plain = f"{status}: {_said(told)}"
            self.upload_field = {"target_model_names": self.model}
            status, told = self.upload(self.content)
            if status == 200:
                self.note(
                    "upload", False, f"{plain}; with target_model_names it works: dialect='litellm'", bridged=True
                )
        if status != 200 or not told.get("id"):
            self.note("upload", False, f"{status}: {_said(told)}" + ("; no Files API here" if status == 404 else ""))
            self.stopped = "not reached: nothing can be uploaded"
            return False
        self.found.setdefault("upload", ("holds", f"{len(self.content)} bytes as {_short(str(told['id']), 40)}", None))
        self.input_id = str(told["id"])
        self._stored(told, now)
        return True

    def _stored(self, told: dict[str, Any], now: float) -> None:
        status, _, raw = self.ask("GET", f"/files/{self.input_id}/content")
        same = status == 200 and raw == self.content
        seen = "equal" if same else f"{status}: {len(raw)} bytes, {len(self.content)} were sent"
        self.note("content byte for byte", same, seen + ", with U+2028, U+0085 and \\r inside" * same)
        wrong = {
            name: told.get(name)
            for name, fits in {
                "object": told.get("object") == "file",
                "bytes": told.get("bytes") == len(self.content),
                "purpose": told.get("purpose") == "batch",
                "filename": told.get("filename") == f"{self.mark}.jsonl",
                "created_at": isinstance(told.get("created_at"), int),
            }.items()
            if not fits
        }
        self.note("file object", not wrong, _pairs(wrong) or "object, bytes, purpose, filename, created_at")
        born, dies = told.get("created_at") or now, told.get("expires_at")
        if isinstance(dies, int | float) and isinstance(born, int | float):
            self.note("files kept a week", dies - born >= _WEEK_S, f"{(dies - born) / 3600:,.0f} h")
        else:
            self.note("files kept a week", None, "the server does not say when a file expires")
        status, other = self.upload(
            b"{}\n", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}
        )
        born, dies = other.get("created_at"), other.get("expires_at")
        kept = isinstance(born, int) and isinstance(dies, int) and abs(dies - born - 7200) <= 60
        seen = "7200 s" if kept else f"asked for 7200 s: expires_at {dies!r}, created_at {born!r}"
        self.note("expires_after", kept, seen if status == 200 else f"{status}: {_said(other)}")
        status, listed, raw = self.ask("GET", "/files?purpose=batch&limit=100")
        has = any(file.get("id") == self.input_id for file in _list(listed))
        self.note("files are listed", has, "the file is there" if has else f"{status}: not there, {_said(listed, raw)}")

    def creates(self) -> None:
        """Make the batches: one good, five that must be refused, and one with an Idempotency-Key."""
        status, told = self.create(self.input_id)
        wrong = [
            f"{name} {told.get(name)!r}"
            for name, fits in {
                "id": isinstance(told.get("id"), str),
                "object": told.get("object") == "batch",
                "endpoint": told.get("endpoint") == URL,
                "input_file_id": told.get("input_file_id") == self.input_id,
                "completion_window": told.get("completion_window") == "24h",
                "created_at": isinstance(told.get("created_at"), int),
            }.items()
            if not fits
        ]
        usable = status == 200 and isinstance(told.get("id"), str)
        seen = f"{status}: {_said(told)}" if status != 200 else ", ".join(wrong) or f"status {told.get('status')}"
        self.note("create", usable and not wrong, seen, bridged=usable)
        if usable:
            self._made("good", told)
        else:
            self.stopped = "not reached: no batch can be created"
            return
        one = self.line("one")
        faulty = {
            "duplicate custom_id refused": _jsonl([one, one]),
            "bad JSON refused with its line": _jsonl([one]) + b'{"custom_id": "x", \n',
            "wrong url refused": _jsonl([self.line("url", url="/v1/moderations")]),
            "stream refused": _jsonl([self.line("stream", stream=True)]),
        }
        for name, content in faulty.items():
            self._try(name, content)
        self._refusals()
        status, uploaded = self.upload(_jsonl([self.line("again")]))
        twice = [self.create(uploaded.get("id"), headers={"Idempotency-Key": self.mark})[1].get("id") for _ in range(2)]
        good = twice[0] == twice[1] if all(twice) else None
        seen = "two creates made two batches" if good is False else "two creates, one batch"
        self.note("Idempotency-Key", good, seen if all(twice) else "the creates were refused")
        for n, batch_id in enumerate(dict.fromkeys(i for i in twice if i)):
            self._made(f"again{n}", {"id": batch_id})

    def _refusals(self) -> None:
        bad: dict[str, dict[str, Any]] = {
            "endpoint": {"endpoint": "/v1/doctor"},
            "completion_window": {"completion_window": "7 years"},
            "input_file_id": {"input_file_id": "file-doctor0000"},
        }
        taken = []
        for name, changed in bad.items():
            status, told = self.create(self.input_id, **changed)
            if status == 200 and told.get("id"):
                self._made(f"create {name}", told)
                taken.append(name)
            elif not 400 <= status < 500:
                taken.append(f"{name} ({status})")
        self.bad_taken = taken

    def _try(self, name: str, content: bytes) -> None:
        """Upload a faulty file and create its batch; a refusal in any step is what is hoped for."""
        status, told = self.upload(content)
        step = "upload"
        if status == 200:
            step = "create"
            status, told = self.create(told.get("id"))
        if status == 200 and told.get("id"):
            self._made(name, told)
        else:
            self.refused[name] = f"at {step}: {status}: {_said(told)}"

    def cancelling(self) -> None:
        """Delete the input of a running batch, then cancel it."""
        if "good" not in self.batches:
            return
        lines = [self.line(f"long-{n}", "Count to twenty.", max_tokens=32) for n in range(10)]
        _, uploaded = self.upload(_jsonl(lines))
        status, told = self.create(uploaded.get("id"))
        if status != 200 or not told.get("id"):
            self.note("cancel keeps what is done", None, f"create: {status}: {_said(told)}")
            return
        self._made("long", told)
        until, done = min(self.until, time.monotonic() + 30), 0
        while time.monotonic() < until:
            now = self._look("long")
            done = _count(now, "completed")
            if done or self._status(now) in TERMINAL:
                break
            time.sleep(0.1)
        if self._status(self.batches["long"]) in TERMINAL:
            seen = f"the batch was {self._status(self.batches['long'])} before it could be touched"
            self.note("running input is safe", None, seen)
            self.note("cancel keeps what is done", None, seen)
            return
        status, told, raw = self.ask("DELETE", f"/files/{uploaded['id']}")
        seen = "deleted while its batch ran" if status == 200 else f"{status}: {_said(told, raw)}"
        self.note("running input is safe", 400 <= status < 500, seen)
        status, told, raw = self.ask("POST", f"/batches/{self.batches['long']['id']}/cancel")
        if status != 200:
            self.note("cancel keeps what is done", False, f"{status}: {_said(told, raw)}")
            return
        self._wait(["long"])
        now = self.batches["long"]
        n_kept = len(self._lines(now, "output_file_id"))
        seen = f"{self._status(now)}: {done} lines were done, {n_kept} are in the output file"
        good: bool | None = self._status(now) == "cancelled" and n_kept >= done
        if good and not done:
            good, seen = None, "cancelled before a line was done"
        elif self._status(now) == "completed":
            good = None
        self.note("cancel keeps what is done", good, seen)

    def results(self) -> None:
        """Wait for all batches, and read what they brought."""
        if "good" not in self.batches:
            return
        self._wait(list(self.batches))
        for name in ("duplicate custom_id refused", "bad JSON refused with its line", "wrong url refused"):
            self._faulty(name)
        self._faulty("stream refused")
        later = [n for n in self.bad_taken if self._status(self.batches.get(f"create {n}", {})) == "failed"]
        said = ", ".join(n for n in self.bad_taken if n not in later)
        self.note("bad creates are refused", not said, f"taken: {said}" if said else "endpoint, window, file id")
        good = self.batches["good"]
        kept = good.get("metadata") == {"doctor": self.mark}
        self.note("metadata is kept", kept, "kept" if kept else f"{good.get('metadata')!r}")
        self._statuses()
        if self._status(good) not in TERMINAL:
            self.stopped = f"not reached: a batch of 5 requests was still {good.get('status')!r} when patience ended"
            return
        self._read(good)

    def _faulty(self, name: str) -> None:
        """What became of a file that must not run."""
        if name in self.refused:
            self.note(name, True, self.refused[name])
            return
        now = self.batches[name]
        if self._status(now) == "failed":
            errors = _list(now.get("errors"))
            first = errors[0] if errors else {}
            seen = f"failed, line {first.get('line')}: {first.get('message')}"
            numbered = first.get("line") == 2 or "line 2" in str(first.get("message"))
            self.note(name, numbered or "its line" not in name, seen)
        elif name in ("wrong url refused", "stream refused") and self._lines(now, "error_file_id"):
            self.note(name, not self._lines(now, "output_file_id"), "the line fails by itself")
        elif self._status(now) in TERMINAL:
            self.note(name, False, f"the batch is {now.get('status')}, nothing was refused")
        else:
            self.note(name, None, f"still {now.get('status')!r} when patience ended")

    def _statuses(self) -> None:
        words = {word for path in self.path.values() for word in path}
        strange = sorted(words - set(STATUSES))
        steps = [
            (a, b) for path in self.path.values() for a, b in zip(["", *map(_WORDS.status, path)], path, strict=False)
        ]
        wrong = [f"{a} -> {b}" for a, b in steps if a not in TERMINAL and _WORDS.status(b) not in (a, *_NEXT[a])]
        ended = all(self._status(batch) in TERMINAL for batch in self.batches.values())
        seen = [f"{word!r} is none of OpenAI's" for word in strange] + wrong
        if not ended:
            stuck = sorted({str(b.get("status")) for b in self.batches.values() if self._status(b) not in TERMINAL})
            seen.append(f"still {', '.join(stuck)} when patience ended")
        told = ", ".join(seen) or " -> ".join(self.path["good"])
        fine: bool | None = not strange and not wrong
        self.note("statuses are OpenAI's", None if fine and not ended else fine, told, bridged=ended)

    def _read(self, good: dict[str, Any]) -> None:
        """Examine the lines of the good batch."""
        out, err = self._lines(good, "output_file_id"), self._lines(good, "error_file_id")
        sent = [str(line["custom_id"]) for line in (parse(raw) or {} for raw in split(self.content))]
        came = [str((line or {}).get("custom_id")) for line in (*out, *err)]
        missing, foreign = sorted(set(sent) - set(came)), sorted(set(came) - set(sent))
        doubled = len(came) - len(set(came))
        seen = f"{len(missing)} missing, {doubled} doubled, {len(foreign)} unknown of {len(sent)}"
        fine = not (missing or foreign or doubled)
        order = [name for name in sent if name in came[: len(out)]] == came[: len(out)]
        self.note(
            "every line comes once",
            fine,
            f"all {len(sent)}, in {'the order sent' if order else 'another order'}" if fine else seen,
            bridged=bool(set(sent) & set(came)),
        )
        fails = f"{self.mark}-fails"
        answers = [line for line in (*out, *err) if line and line.get("custom_id") != fails]
        self._forms(answers)
        self._failed_line(fails, out, err)
        counts = good.get("request_counts") if isinstance(good.get("request_counts"), dict) else {}
        want = {"total": len(sent), "completed": len(out), "failed": len(err)}
        told = {name: (counts or {}).get(name) for name in want}
        self.note("counts add up", told == want, _pairs(told) + ("" if told == want else f"; files say {_pairs(want)}"))
        usage = good.get("usage") if isinstance(good.get("usage"), dict) else {}
        read = [outcome(line, "completed") for line in answers]
        total = sum((r["prompt_tokens"] or 0) + (r["completion_tokens"] or 0) for r in read)
        per_line = all(r["prompt_tokens"] is not None for r in read) and bool(read)
        reported = (usage or {}).get("total_tokens")
        seen = f"batch {reported!r}, lines {total if per_line else 'without usage'}"
        self.note("usage is reported", per_line and reported == total, seen, bridged=per_line)
        names = sorted({str(r["model_returned"]) for r in read})
        self.note("model is the one asked for", names == [self.model], ", ".join(names) or "no line answered")

    def _forms(self, answers: list[dict[str, Any]]) -> None:
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
        seen = ", ".join(sorted(wrong)) or ("id, custom_id, response, error" if answers else "no line came")
        if not readable and answers:
            first = next(o for line in answers if (o := outcome(line, "completed"))["status"] not in ANSWERED)
            seen += f"; read as {first['status']}: {first['error']}"
        self.note("lines have OpenAI's form", readable and not wrong, seen, bridged=readable)

    def _failed_line(self, name: str, out: list[Any], err: list[Any]) -> None:
        """The line with temperature -1."""
        inside = [(line, place) for place, lines in (("output", out), ("error", err)) for line in lines if line]
        line, place = next(((x, where) for x, where in inside if x.get("custom_id") == name), (None, ""))
        check = "a failed line is an error"
        if line is None:
            self.note(check, False, "the line with temperature -1 did not come")
            return
        read = outcome(line, "completed")
        if read["status"] in ANSWERED:
            self.note(check, None, "the engine answered a request with temperature -1")
            return
        response = line.get("response")
        body = response.get("body") if isinstance(response, dict) else None
        told = line.get("error") or (body.get("error") if isinstance(body, dict) else None)
        wrong = ["it stands in the output file"] * (place == "output")
        wrong += [] if isinstance(told, dict) else [f"its error is {type(told).__name__}, not an object"]
        wrong += ["it has a response and an error"] * bool(line.get("error") and isinstance(response, dict))
        self.note(check, not wrong, ", ".join(wrong) or f"in the error file, read as {read['status']}: {read['error']}")

    def listing(self) -> None:
        """Pages of batches, an ended batch, and the SDK."""
        if "good" not in self.batches:
            return
        _, page, raw = self.ask("GET", "/batches?limit=1")
        first = _list(page)
        page_ok = len(first) == 1 and isinstance(page, dict) and page.get("has_more") is True
        after = str(first[0].get("id")) if first else ""
        _, second, _ = self.ask("GET", f"/batches?limit=100&after={after}")
        rest = [str(batch.get("id")) for batch in _list(second)]
        whole = {after, *rest} >= {str(batch["id"]) for batch in self.batches.values()} and after not in rest
        seen = f"{len(first)} of limit 1, then {len(rest)} more" if page_ok else f"limit=1 gave {_said(page, raw)}"
        self.note("batches are listed in pages", page_ok and whole, seen + "" if whole else seen + "; some are missing")
        good = self.batches["good"]
        if self._status(good) in TERMINAL:
            status = self.ask("POST", f"/batches/{good['id']}/cancel")[0]
            time.sleep(0.05)
            now = self._look("good")
            files = ("status", "output_file_id", "error_file_id", "request_counts")
            same = all(now.get(name) == good.get(name) for name in files)
            seen = f"cancel gave {status}, the batch is {now.get('status')} as before"
            changed = _pairs({k: now.get(k) for k in files if now.get(k) != good.get(k)})
            self.note("an ended batch stays ended", same, seen if same else f"cancel gave {status}; now {changed}")
        self._sdk()

    def _sdk(self) -> None:
        import openai

        client = client_of(self.url, self.key, credentials=self.credentials, timeout_s=self.timeout_s)
        batch_id = str(self.batches["good"]["id"])
        wrong = []
        try:
            if client.batches.retrieve(batch_id).id != batch_id:
                wrong.append("batches.retrieve")
            if client.files.content(self.input_id).content != self.content:
                wrong.append("files.content")
            if len({batch.id for batch in islice(client.batches.list(limit=1), 2)}) != 2:
                wrong.append("batches.list does not page")
            if self.model not in [m.id for m in client.models.list()]:
                wrong.append("models.list does not have the model")
        except openai.OpenAIError as error:
            wrong.append(f"{type(error).__name__}: {error}")
        finally:
            client.close()
        told = ", ".join(wrong) or f"openai {openai.__version__}: models, files, batches"
        self.note("openai SDK reads it", not wrong, told)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _made(self, name: str, told: dict[str, Any]) -> None:
        self.batches[name] = told
        self.path[name] = [str(told["status"])] if told.get("status") else []

    def _look(self, name: str) -> dict[str, Any]:
        status, told, _ = self.ask("GET", f"/batches/{self.batches[name]['id']}")
        if status == 200 and isinstance(told, dict):
            self.batches[name] = {**told, "id": self.batches[name]["id"]}
            word = str(told.get("status"))
            if self.path[name][-1:] != [word]:
                self.path[name].append(word)
        return self.batches[name]

    def _status(self, batch: dict[str, Any]) -> str:
        return _WORDS.status(str(batch.get("status")))

    def _wait(self, names: Iterable[str]) -> None:
        pause_s, left = 0.05, list(names)
        while left := [name for name in left if self._status(self._look(name)) not in TERMINAL]:
            if time.monotonic() > self.until:
                return
            time.sleep(pause_s)
            pause_s = min(5.0, pause_s * 1.3)

    def _lines(self, batch: dict[str, Any], column: str) -> list[dict[str, Any] | None]:
        if not batch.get(column):
            return []
        status, _, raw = self.ask("GET", f"/files/{batch[column]}/content")
        return [parse(line) for line in split(raw)] if status == 200 else []

    def tidy(self) -> None:
        """Cancel what still runs, and remove the inputs."""
        for batch in self.batches.values():
            if self._status(batch) not in TERMINAL:
                self.ask("POST", f"/batches/{batch['id']}/cancel")
        for file_id in self.files_made:
            if self.ask("DELETE", f"/files/{file_id}")[0] == 0:
                return  # the server is gone


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    try:
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def _jsonl(lines: list[dict[str, Any]], *, ascii_only: bool = True) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=ascii_only).encode() + b"\n" for line in lines)


def _object(told: Any, raw: bytes) -> dict[str, Any]:
    return told if isinstance(told, dict) else {"error": {"message": raw[:200].decode(errors="replace")}}


def _list(told: Any) -> list[dict[str, Any]]:
    """The objects of a list reply; nothing of anything else."""
    data = told.get("data") if isinstance(told, dict) else None
    return [x for x in data if isinstance(x, dict)] if isinstance(data, list) else []


def _count(batch: dict[str, Any], name: str) -> int:
    counts = batch.get("request_counts")
    value = counts.get(name) if isinstance(counts, dict) else 0
    return value if isinstance(value, int) else 0


def _said(told: Any, raw: bytes = b"") -> str:
    """What a reply says, in a few words."""
    error = told.get("error", told.get("detail")) if isinstance(told, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return _short(str(error or raw[:200].decode(errors="replace") or told))


def _short(text: str, n: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= n else flat[: n - 1] + "…"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())
