"""A few labelled rows, to be looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from arislab.finetune.labels import count_statuses
from arislab.finetune.weights import load_tokenizer
from arislab.system.text import AS_IS, html


@dataclass(frozen=True)
class Preview:
    """A few labelled rows as HTML: the prompt in grey, what is trained marked. Shown by Jupyter."""

    rows: tuple[tuple[str, str, str], ...]
    """(id, prompt, trained part) of each row shown."""
    counts: Mapping[str, int]
    """Rows by status, over all rows."""

    def __repr__(self) -> str:
        return f"Preview({len(self.rows)} rows; {', '.join(f'{k} {v}' for k, v in self.counts.items())})"

    def _repr_html_(self) -> str:
        parts = [
            f'<p style="font-family:monospace;white-space:pre-wrap"><b>{html(row_id)}</b>\n'
            f'<span style="opacity:.6">{html(prompt)}</span>'
            f'<mark title="trained">{html(trained)}</mark></p>'
            for row_id, prompt, trained in self.rows
        ]
        counts = ", ".join(f"{html(status)} {n}" for status, n in self.counts.items())
        return f"<div {AS_IS}>{''.join(parts)}<small>marked: trained · rows: {counts}</small></div>"


def preview(tokenized: pl.DataFrame, tokenizer: Any, *, n: int = 3) -> Preview:
    """Show the first `n` trained rows, decoded from their ids and labels.

    Args:
        tokenized: From ``tokenize``.
        tokenizer: As in ``tokenize``.
        n: At most all.
    """
    tokenizer = load_tokenizer(tokenizer)
    rows = []
    for row in tokenized.filter(pl.col("status") == "ok").head(n).iter_rows(named=True):
        cut = row["n_tokens"] - row["n_supervised"]
        rows.append((row["id"], tokenizer.decode(row["input_ids"][:cut]), tokenizer.decode(row["labels"][cut:])))
    return Preview(tuple(rows), count_statuses(tokenized))
