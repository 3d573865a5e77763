"""Preferences to token ids, each row with the proofs of ``labels`` for every answer in it.

A row of pairs, and a row of single verdicts::

    id='p-3c0f…' messages='[{"role": "user", …}]' output='Lima.' rejected='Cuzco.'
    id='r-5f0c…' messages='[{"role": "user", …}]' output='Lima.' is_desirable=True

It does not know who says which answer is better.
"""

from typing import Any

import polars as pl

from arislab.finetune.labels import tokenize
from arislab.finetune.weights import load_tokenizer

STATUSES = {
    "equal": "chosen and rejected say the same",
    "contradicted": "another row says the opposite",
    "repeated": "another row says the same",
}
"""Why a row of preferences is not trained, beside ``finetune.STATUSES`` of one of its answers."""
TRAINED = ("input_ids", "labels", "other_ids", "other_labels", "is_desirable")
"""Columns that are trained on, where a tokenized row has them."""
REFERENCES = ("reference", "other_reference")
"""Columns of what the reference says of both answers: log-probabilities, nats."""


def tokenize_preferences(examples: pl.DataFrame, tokenizer: Any, **how: Any) -> pl.DataFrame:
    """Turn preferences into token ids and labels.

    A row is `ok` only if ``tokenize`` would train each answer in it; both then follow the same tokens, those that a
    server computes of the messages. Nothing is ever cut.

    Args:
        examples: columns id, messages, output, and either rejected (String: the worse answer) or is_desirable
            (Boolean).
        tokenizer: as in ``tokenize``.
        how: max_length and chat_template_kwargs, as in ``tokenize``.

    Returns:
        One row per example, in order: what ``tokenize`` returns of output; of pairs other_ids and other_labels, the
        same of rejected; of single verdicts is_desirable. Reasons say which answer they are about.
    """
    tokenizer = load_tokenizer(tokenizer)
    rows, is_ok = tokenize(examples, tokenizer, **how), pl.col("status") == "ok"
    if "rejected" not in examples.columns:
        texts = examples.select("messages", "output", "is_desirable")
        rows = rows.with_columns(texts["is_desirable"], is_equal=False)
        return _marked(rows, texts, opposite=texts.with_columns(~pl.col("is_desirable")))
    texts = examples.select("messages", "output", "rejected")
    worse = tokenize(examples.with_columns(output="rejected"), tokenizer, **how)
    rows = rows.with_columns(
        other_ids=worse["input_ids"],
        other_labels=worse["labels"],
        n_tokens=rows["n_tokens"] + worse["n_tokens"],
        n_supervised=rows["n_supervised"] + worse["n_supervised"],
        status=pl.when(is_ok).then(worse["status"]).otherwise("status"),
        reason=pl.when(is_ok).then("rejected: " + worse["reason"]).otherwise("chosen: " + pl.col("reason")),
        is_equal=texts["output"].str.strip_chars() == texts["rejected"].str.strip_chars(),
    )
    return _marked(rows, texts, opposite=texts.select("messages", output="rejected", rejected="output"))


def columns(tokenized: pl.DataFrame, *, known: tuple[str, ...] = (*TRAINED, *REFERENCES)) -> list[str]:
    """Return those of some columns that tokenized rows, of examples or of preferences, have."""
    return [name for name in known if name in tokenized.columns]


def _marked(rows: pl.DataFrame, texts: pl.DataFrame, *, opposite: pl.DataFrame) -> pl.DataFrame:
    """Give a status to rows whose answers are in order, and which say nothing as a preference."""
    turned = set(opposite.rows())
    faults = {
        "equal": rows["is_equal"],
        "contradicted": pl.Series([text in turned for text in texts.rows()], dtype=pl.Boolean),
        "repeated": ~texts.select(pl.struct(pl.all()).is_first_distinct()).to_series(),
    }
    for status, is_so in faults.items():
        is_new = (pl.col("status") == "ok") & is_so
        rows = rows.with_columns(
            status=pl.when(is_new).then(pl.lit(status)).otherwise("status"),
            reason=pl.when(is_new).then(pl.lit(STATUSES[status])).otherwise("reason"),
        )
    return rows.drop("is_equal")
