"""How servers of the Files + Batches protocol differ, as values.

What is not listed here, ``protocol.outcome`` tolerates in any case.

The rows were written after the servers' sources and documents (versions in ``note``), not after runs against them,
except ``arislab`` and ``vllm``. This module does not know connections or requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from arislab.errors import ParameterError, closest

STATUSES = ("validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
TERMINAL = ("completed", "failed", "expired", "cancelled")
_WORDS = {"queued": "validating", "pending": "validating", "running": "in_progress", "canceled": "cancelled"}


@dataclass(frozen=True)
class Dialect:
    """What the client must know of a server before it sends anything."""

    name: str
    max_requests: int = 50_000
    """Requests a file."""
    max_bytes: int = 190_000_000
    """Bytes a file; OpenAI's limit is 200 MB, of which a margin is left."""
    metadata: bool = True
    """Batches keep the metadata that they were created with; else they are found again by the name of their file."""
    lists: bool = True
    """Files and batches can be listed; without, a lost answer to a create cannot be reconciled."""
    idempotency_key: bool = False
    """A create with the header Idempotency-Key can be repeated without making a second batch."""
    expires_after_s: int | None = None
    """Sent as expires_after of uploads and outputs, seconds; null: the server's default is long enough (30 days)."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    """The server's own words for OpenAI's statuses; upper case is understood everywhere."""
    upload_model_field: str | None = None
    """Form field of an upload in which the server wants the model's name."""
    note: str = ""
    """Source and version, and what else differs."""

    def status(self, given: str | None) -> str:
        """Return OpenAI's word for a status; one that nobody knows counts as in_progress (see ``knows``)."""
        word = self._word(given)
        return word if word in STATUSES else "in_progress"

    def knows(self, given: str | None) -> bool:
        """Say whether a status is OpenAI's or has a word of OpenAI's."""
        return self._word(given) in STATUSES

    def _word(self, given: str | None) -> str:
        word = (given or "").lower()
        word = self.statuses.get(word, word)
        return _WORDS.get(word, word)


DIALECTS = {
    d.name: d
    for d in (
        Dialect("openai", note="openai-openapi of 2026-08"),
        Dialect("arislab", idempotency_key=True, note="arislab serve"),
        Dialect(
            "vllm", note="run-batch 0.33 and pull request 44445: one file, failed lines have status_code and error"
        ),
        Dialect(
            "litellm",
            metadata=False,
            upload_model_field="target_model_names",
            note="proxy 1.109.1: create answers 400 for bad lines, counts stay 0 until the end, ids are long",
        ),
        Dialect("ogx", note="5a9cb55d: response.body is a JSON string; batches do not survive a restart"),
        Dialect("llm_d", expires_after_s=2_592_000, note="batch gateway 0.3.0: lines come grouped by prompt prefix"),
        Dialect("control_layer", expires_after_s=2_592_000, note="10.13.1: files expire after 24 h unless told"),
    )
}


def dialect(name: str) -> Dialect:
    """Return a dialect by its name.

    Raises:
        ParameterError: No such dialect.

    Example:
        >>> dialect("openai").status("IN_PROGRESS")
        'in_progress'
    """
    if name not in DIALECTS:
        raise ParameterError(f"there is no dialect {name!r}; {closest(name, DIALECTS)}.")
    return DIALECTS[name]
