"""Who may open which page of a review server: a secret URL for each reviewer, and one for the lead.

They stand in a file beside the sessions of a lake, so that each URL stays the same: what a browser could not send yet
lies under host and port. This module does not know what is reviewed, nor how a page is served.
"""

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qs

from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import files

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Seats:
    """Pages of one server; they run code, so that it listens on loopback only."""

    port: int
    """Fixed for the lake, 1..65535."""
    lead: str
    """Name of the lead, who alone sees the lead's page."""
    tokens: Mapping[str, str]
    """Secret of each reviewer and of the lead, by name."""

    def url(self, name: str) -> str:
        """Return the address of the page of a reviewer, or of the lead."""
        page = "lead" if name == self.lead else "review"
        return f"http://{HOST}:{self.port}/voila/render/{page}.ipynb?token={self.tokens[name]}"

    def name_of(self, token: str) -> str | None:
        """Return whose secret it is; null: nobody's."""
        given = token.encode()
        return next((name for name, one in self.tokens.items() if secrets.compare_digest(one.encode(), given)), None)


def read(folder: Path) -> Seats | None:
    """Return the seats of a lake; null if there are none.

    Args:
        folder: ``lake.review``.
    """
    path = Path(folder) / "seats.json"
    return Seats(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def prepare(folder: Path, names: Sequence[str] = (), *, lead: str | None = None, port: int | None = None) -> Seats:
    """Return the seats of a lake with these reviewers among them; who has a seat keeps it.

    Args:
        folder: ``lake.review``.
        names: Reviewers.
        lead: Name of the lead; default: as before, else "lead".
        port: Default: as before, else one that is free now.

    Raises:
        ParameterError: A name is empty, has no letter or digit, or is the lead's.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> prepare(folder, ["Ada"]).tokens["Ada"] == prepare(folder, ["Grace"]).tokens["Ada"]
        True
    """
    before = read(folder)
    chief = lead or (before.lead if before else "lead")
    for name in names:
        if name != name.strip() or not any(map(str.isalnum, name)) or name == chief:
            raise ParameterError(
                f"{name!r} cannot be a reviewer here; give a name with a letter or digit, without blanks around it, "
                f"other than the lead's ({chief!r})."
            )
    tokens = dict(before.tokens) if before else {}
    tokens |= {name: secrets.token_urlsafe(24) for name in (chief, *names) if name not in tokens}
    seats = Seats(port or (before.port if before else _free_port()), chief, tokens)
    if seats != before:
        path = Path(folder) / "seats.json"
        with files.written(path) as file:
            os.fchmod(file.fileno(), 0o600)  # whoever reads it can decide in the name of others
            file.write(json.dumps(asdict(seats), indent=1, ensure_ascii=False).encode())
    return seats


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def visitor(folder: Path, default: str = "") -> str:
    """Return who opened the page for which this kernel runs, by the secret in its address.

    Args:
        folder: ``lake.review``.
        default: Where the kernel runs for no page, but in JupyterLab or without people.

    Raises:
        PrerequisiteError: The secret is nobody's.
    """
    if "QUERY_STRING" not in os.environ:
        return default
    seats, (token, *_) = read(folder), parse_qs(os.environ["QUERY_STRING"]).get("token", [""])
    if seats is None or (name := seats.name_of(token)) is None:
        raise PrerequisiteError("this address is nobody's; ask the lead for yours (`arislab review` prints them).")
    return name
