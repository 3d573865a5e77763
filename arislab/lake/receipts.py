"""Receipts of what was forgotten: one JSON file each under ``data/forgotten``, without what was forgotten.

    {"receipt": "20261128-3fa2", "status": "complete", "by": "Ada", "digests": ["5c1e…"], "salt": "9b…", …}

``digests`` are HMAC-SHA256 of the candidates' names, keyed with the salt: they tell whether a name is one of them. A
name that can be guessed can be tried, so the folder is as private as the lake.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arislab.errors import LakeError
from arislab.system import files

FOLDER = "forgotten"
UNDER_WAY = ".forgetting.json"
"""File beside the tables that says who is being forgotten, for as long as it is under way."""


def written(data: Path) -> list[dict[str, Any]]:
    """Return the receipts of a root, oldest first.

    Args:
        data: Its folder ``data``.

    Raises:
        LakeError: One cannot be read: who was forgotten by it could come back.
    """
    found = []
    for path in sorted((data / FOLDER).glob("*.json")):
        try:
            receipt = json.loads(path.read_bytes())
            _ = receipt["receipt"], receipt["salt"], receipt["digests"], receipt["begun_at"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LakeError(
                f"the receipt {path} cannot be read ({type(error).__name__}: {error}); put it back as it was, for it "
                "says who must not come back."
            ) from None
        found.append(receipt)
    return found


def keep(data: Path, receipt: dict[str, Any]) -> None:
    """Write a receipt, whole or not at all."""
    content = json.dumps(receipt, indent=1, ensure_ascii=False) + "\n"
    files.keep(data / FOLDER / f"{receipt['receipt']}.json", content.encode())


def salt(data: Path) -> str:
    """Return the salt of a root's receipts, or a new one: the same for all, so that a name is digested once."""
    return next((str(one["salt"]) for one in written(data)), secrets.token_hex(16))


def digest(salt: str, name: str) -> str:
    """Return the digest by which a receipt knows a name.

    Example:
        >>> digest("00", "p-7") == digest("00", "p-7"), digest("00", "p-7") == digest("01", "p-7")
        (True, False)
    """
    return hmac.new(salt.encode(), name.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def forgotten(data: Path, names: Iterable[str]) -> dict[str, str]:
    """Return those of the names that were forgotten, each with when and by which receipt, in words.

    Args:
        data: Folder ``data`` of a root.
        names: candidate_ids.
    """
    known = {(one["salt"], digest): one for one in written(data) for digest in one["digests"]}
    if not known:
        return {}
    salts = {salt for salt, _ in known}
    found = {}
    for name in names:
        for one in filter(None, (known.get((salt, digest(salt, name))) for salt in salts)):
            found[name] = f"forgotten on {one['begun_at'][:10]}, receipt {one['receipt']}"
    return found
