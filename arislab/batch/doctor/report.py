"""All questions in their order, and the table of their answers."""

import os
import time

import polars as pl

from arislab.batch.doctor import batches, ends, service
from arislab.batch.doctor.checks import CHECKS, COLUMNS
from arislab.batch.doctor.examination import Examination
from arislab.batch.doctor.wire import Wire, is_url
from arislab.errors import ParameterError
from arislab.system import masking


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
    if not is_url(server_url):
        raise ParameterError(f"--base-url must be a URL such as http://127.0.0.1:8000/v1, got {shown!r}.")
    if not (key.isascii() and key.isprintable()):
        raise ParameterError("the key holds characters that no HTTP header can carry; look at $ARISLAB_API_KEY.")
    wire = Wire(server_url.rstrip("/"), None if key in ("", "none") else key, credentials, timeout_s)
    exam = Examination(wire, model, until=time.monotonic() + patience_s)
    try:
        service.service(exam)
        if exam.model and service.files(exam):
            batches.creates(exam)
            batches.cancelling(exam)  # before the results are waited for: by then nothing would run any more
            ends.results(exam)
            batches.listing(exam)
    finally:
        exam.tidy()
    rows = []
    for check, (copes, client) in CHECKS.items():
        verdict, seen, bridged = exam.findings.get(check, ("unknown", exam.stopped, None))
        copes = copes if bridged is None else bridged
        # a server may repeat the key in what it says, and this table is pasted into reports
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
