"""One server under examination: what was made there, and what was found. This module does not know what is asked."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from arislab.batch.dialects import DIALECTS, TERMINAL
from arislab.batch.doctor.checks import CHECKS
from arislab.batch.doctor.wire import Wire, as_object, short
from arislab.batch.protocol import URL, parse, split

WORDS = DIALECTS["openai"]
"""Statuses are read as any server's, before the doctor says what is odd about them."""

LOOK_S = 0.05
"""Seconds between the first looks at a batch."""


@dataclass
class Examination:
    """What was made at a server, and what was found."""

    wire: Wire
    model: str
    """Name to ask for; empty until the server named one."""
    until: float
    """When patience ends, in the clock of ``time.monotonic``."""
    findings: dict[str, tuple[str, str, bool | None]] = field(default_factory=dict)
    """By check: verdict, what the server did, and whether the client copes (null: as ``CHECKS`` says)."""
    stopped: str = "not reached"
    """Why the checks that have no finding were not reached."""
    mark: str = field(default_factory=lambda: f"doctor-{secrets.token_hex(4)}")
    """Begins the name of all that is made here."""
    files_made: list[str] = field(default_factory=list)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Batches made, by their name here; what the server last said of them."""
    path: dict[str, list[str]] = field(default_factory=dict)
    """Statuses seen of each batch, without repetitions."""
    refused: dict[str, str] = field(default_factory=dict)
    """What was said to a file or create that was refused, by the batch's name here."""
    taken: list[str] = field(default_factory=list)
    """Creates that no server may take, and that this one took."""
    upload_field: dict[str, str] = field(default_factory=dict)
    """What this server wants in the form of an upload."""
    content: bytes = b""
    """The file of the batch whose results are examined."""
    input_id: str = ""
    """Its id at the server."""

    def upload(self, content: bytes, **fields: str) -> tuple[int, dict[str, Any]]:
        """Send a file as a multipart form."""
        edge = secrets.token_hex(16)
        form = {"purpose": "batch", **self.upload_field, **fields}
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in form.items()
        ]
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{self.mark}.jsonl"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        body = b"".join([*parts, head.encode(), content, f"\r\n--{edge}--\r\n".encode()])
        status, reply, raw = self.wire.ask(
            "POST", "/files", body, headers={"Content-Type": f"multipart/form-data; boundary={edge}"}
        )
        reply = as_object(reply, raw)
        if status == 200 and reply.get("id"):
            self.files_made.append(str(reply["id"]))
        return status, reply

    def create(self, file_id: Any, *, headers: dict[str, str] | None = None, **changed: Any) -> tuple[int, Any]:
        """Create a batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": URL,
            "completion_window": "24h",
            "metadata": {"doctor": self.mark},
        }
        status, reply, raw = self.wire.ask("POST", "/batches", body | changed, headers=headers)
        return status, as_object(reply, raw)

    def note(self, check: str, good: Any, seen: str, *, bridged: bool | None = None) -> None:
        """Write down a finding; ``good`` is a truth, or null for unknown, ``bridged`` null what ``CHECKS`` says."""
        assert check in CHECKS, check
        verdict = "unknown" if good is None else "holds" if good else "deviates"
        self.findings[check] = (verdict, short(seen), bridged)

    def line(self, name: str, text: str = "Say hello.", **changed: Any) -> dict[str, Any]:
        """One request, as an object."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        whole = {"custom_id": f"{self.mark}-{name}", "method": "POST", "url": URL, "body": body}
        return {**whole, **{k: v for k, v in changed.items() if k in whole}} | {
            "body": body | {k: v for k, v in changed.items() if k not in whole}
        }

    def made(self, name: str, reply: dict[str, Any]) -> None:
        """Write down a batch that was made."""
        self.batches[name] = reply
        self.path[name] = [str(reply["status"])] if reply.get("status") else []

    def look(self, name: str) -> dict[str, Any]:
        """Ask for a batch; returns what the server last said of it."""
        status, reply, _ = self.wire.ask("GET", f"/batches/{self.batches[name]['id']}")
        if status == 200 and isinstance(reply, dict):
            self.batches[name] = {**reply, "id": self.batches[name]["id"]}
            word = str(reply.get("status"))
            if self.path[name][-1:] != [word]:
                self.path[name].append(word)
        return self.batches[name]

    def status(self, batch: dict[str, Any]) -> str:
        """OpenAI's word for the status of a batch."""
        return WORDS.status(str(batch.get("status")))

    def wait(self, names: Iterable[str]) -> None:
        """Wait until batches have ended, or patience has."""
        pause_s, left = LOOK_S, list(names)
        while left := [name for name in left if self.status(self.look(name)) not in TERMINAL]:
            if time.monotonic() > self.until:
                return
            time.sleep(pause_s)
            pause_s = min(5.0, pause_s * 1.3)

    def lines_of(self, batch: dict[str, Any], column: str) -> list[dict[str, Any] | None]:
        """The lines of the result file that a column of a batch names; null for one that is no object."""
        if not batch.get(column):
            return []
        status, _, raw = self.wire.ask("GET", f"/files/{batch[column]}/content")
        return [parse(line) for line in split(raw)] if status == 200 else []

    def tidy(self) -> None:
        """Cancel what still runs, and remove the inputs."""
        for batch in self.batches.values():
            if self.status(batch) not in TERMINAL:
                self.wire.ask("POST", f"/batches/{batch['id']}/cancel")
        for file_id in self.files_made:  # results stay: not every server lets one delete them
            if self.wire.ask("DELETE", f"/files/{file_id}")[0] == 0:
                return  # the server is gone
