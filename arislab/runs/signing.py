"""Whether a run record was made by this user.

Running a record again runs its code, and a foreign record is a stranger's code.

The key lies outside every root, in ``key`` under $ARISLAB_HOME, else $XDG_DATA_HOME/arislab, else
~/.local/share/arislab; it is made on the first run and never leaves that file. A record carries
``{"key": its fingerprint, "hmac": HMAC-SHA256 of the record's digest}``; the digest covers all fields of ``run.json``,
and those name the digests of all other files. Whoever may read the key may sign: it tells one's own records from those
of others, not good code from bad. This module does not read records (``records``).
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PURPOSE = b"arislab run record 1\n"


def home() -> Path:
    """Return the folder of this user's key."""
    if given := os.environ.get("ARISLAB_HOME"):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share") / "arislab"


def sign(digest: str) -> dict[str, str] | None:
    """Return the signature of a record's digest; null, with a warning, where no key can be kept."""
    try:
        key = _read() or _make()
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home folder is known
        warnings.warn(
            f"this run's record is not signed: no key can be kept in {error}. Set ARISLAB_HOME to a folder of yours "
            "outside of every root; `arislab verify` and `rerun` of it need --trust.",
            stacklevel=2,
        )
        return None
    return {"key": _fingerprint(key), "hmac": _hmac(key, digest)}


def problem(signature: Mapping[str, Any] | None, digest: str) -> str | None:
    """Say why a record does not count as this user's; null if it does.

    Args:
        signature: As ``sign`` gave it; null for a record of an older version.
        digest: Of the record as it is now.
    """
    if not isinstance(signature, Mapping):
        return "it is not signed"
    try:
        key = _read()
    except (OSError, RuntimeError) as error:
        return f"your key cannot be read ({error})"
    if key is None:
        return f"you have no key in {home()}"
    claimed = str(signature.get("hmac", ""))
    if signature.get("key") != _fingerprint(key):
        return f"it is signed with another key ({str(signature.get('key'))[:16]!r}, yours is {_fingerprint(key)!r})"
    if not claimed.isascii() or not hmac.compare_digest(claimed, _hmac(key, digest)):
        return "run.json was changed after it was signed"
    return None


def _hmac(key: bytes, digest: str) -> str:
    return hmac.new(key, _PURPOSE + digest.encode(), hashlib.sha256).hexdigest()


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(b"arislab key\n" + key).hexdigest()[:16]


def _read() -> bytes | None:
    """This user's key; null if there is none yet."""
    try:
        text = (home() / "key").read_bytes().strip()
    except FileNotFoundError:
        return None
    if len(text) < 32:
        raise OSError(f"{home() / 'key'} (it holds no key; move it away, and a new one is made)")
    return text


def _make() -> bytes:
    """Make the key, whole or not at all; of two processes that make one at once, both get the first."""
    folder, key = home(), secrets.token_hex(32)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = folder / f".key.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())
        # a link, not a rename: the later of two processes must not put its key over the first
        with contextlib.suppress(FileExistsError):
            os.link(part, folder / "key")
    finally:
        part.unlink(missing_ok=True)
    return _read() or key.encode()
