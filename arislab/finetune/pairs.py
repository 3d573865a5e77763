"""Preferences to token ids, each row with the proofs of ``labels`` for every answer in it.

A row of pairs, and a row of single verdicts::

    id='p-3c0f…' messages='[{"role": "user", …}]' output='Lima.' rejected='Cuzco.'
    id='r-5f0c…' messages='[{"role": "user", …}]' output='Lima.' is_desirable=True

It does not know who says which answer is better.
"""

from typing import Any

import polars as pl

from arislab.finetune.labels import NOT_TRAINED, tokenize
from arislab.finetune.weights import load_tokenizer

STATUSES = {
    "equal": "chosen and rejected say the same",
    "repeated": "another row says the same",
    "contradicted": "another row says the opposite",
    "other_prompt": "the prompts of chosen and rejected are not the same tokens",
}
"""Why a row of preferences is not trained, beside ``finetune.STATUSES`` of one of its answers."""
TRAINED = ("input_ids", "labels", "other_ids", "other_labels", "is_desirable")
"""Columns that are trained on, where a tokenized row has them."""
REFERENCES = ("reference", "other_reference")
"""Columns of what the reference says of both answers: log-probabilities, nats."""


def tokenize_preferences(examples: pl.DataFrame, tokenizer: Any, **how: Any) -> pl.DataFrame:
    """Turn preferences into token ids and labels.

    A row is `ok` only if each answer in it would be trained by ``tokenize`` and both follow the same prompt tokens.
    Nothing is ever cut.

    Args:
        examples: columns id, messages, output, and either rejected (String: the worse answer; output is the better
            one) or is_desirable (Boolean).
        tokenizer: as in ``tokenize``.
        how: max_length and chat_template_kwargs, as in ``tokenize``.

    Returns:
        One row per example, in order: what ``tokenize`` returns of output; of pairs other_ids and other_labels, the
        same of rejected; of single verdicts is_desirable. Reasons say which answer they are about.
    """
    tokenizer = load_tokenizer(tokenizer)
    rows = tokenize(examples, tokenizer, **how)
    if "rejected" not in examples.columns:
        return _judged(rows.with_columns(examples["is_desirable"]), examples)
    worse = tokenize(examples.with_columns(output="rejected"), tokenizer, **how)
    rows = rows.with_columns(
        other_ids=worse["input_ids"], other_labels=worse["labels"], n_tokens=rows["n_tokens"] + worse["n_tokens"],
        n_supervised=rows["n_supervised"] + worse["n_supervised"],
        reason="chosen: " + pl.col("reason"), other=worse["status"], why="rejected: " + worse["reason"],
    )  # fmt: skip
    is_ok = pl.col("status") == "ok"
    rows = rows.with_columns(
        status=pl.when(is_ok).then("other").otherwise("status"),
        reason=pl.when(is_ok).then("why").otherwise("reason"),
    )
    same = [_prompt(row, "input_ids", "labels") == _prompt(row, "other_ids", "other_labels") for row in rows.to_dicts()]
    texts = examples.select("messages", better="output", worse="rejected")
    turned = texts.select("messages", better="worse", worse="better").rows()
    is_equal = texts.select(pl.col("better").str.strip_chars() == pl.col("worse").str.strip_chars()).to_series()
    return _marked(rows, texts, opposite=set(turned), is_equal=is_equal, is_same_prompt=pl.Series(same)).drop(
        "other", "why"
    )


def columns(tokenized: pl.DataFrame, *, known: tuple[str, ...] = (*TRAINED, *REFERENCES)) -> list[str]:
    """Return those of some columns that tokenized rows, of examples or of preferences, have."""
    return [name for name in known if name in tokenized.columns]


def _judged(rows: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
    texts = examples.select("messages", "output", "is_desirable")
    turned = texts.with_columns(~pl.col("is_desirable")).rows()
    nothing = pl.Series([False] * rows.height, dtype=pl.Boolean)
    return _marked(rows, texts, opposite=set(turned), is_equal=nothing, is_same_prompt=~nothing)


def _marked(
    rows: pl.DataFrame, texts: pl.DataFrame, *, opposite: set[Any], is_equal: pl.Series, is_same_prompt: pl.Series
) -> pl.DataFrame:
    """Give a status to rows whose answers are in order, and which say nothing as a preference."""
    faults = {
        "equal": is_equal,
        "contradicted": pl.Series([text in opposite for text in texts.rows()], dtype=pl.Boolean),
        "repeated": ~texts.select(pl.struct(pl.all()).is_first_distinct()).to_series(),
        "other_prompt": ~is_same_prompt,
    }
    for status, is_so in faults.items():
        is_new = (pl.col("status") == "ok") & is_so
        rows = rows.with_columns(
            status=pl.when(is_new).then(pl.lit(status)).otherwise("status"),
            reason=pl.when(is_new).then(pl.lit(STATUSES[status])).otherwise("reason"),
        )
    return rows


def _prompt(row: dict[str, Any], ids: str, labels: str) -> list[int] | None:
    return row[ids] and [token for token, label in zip(row[ids], row[labels], strict=True) if label == NOT_TRAINED]
