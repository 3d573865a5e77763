"""How surprising answers are to a model before it is trained: what a curated set that is easy to say was chosen by.

It does not know which answers are good, nor where the figures are kept.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import TrainingError
from arislab.finetune.labels import NOT_TRAINED
from arislab.finetune.weights import base_fingerprint, compute_device, resolve_model

_TOKENS = 1_024
"""Tokens in one pass: of each all words of the vocabulary get a number, 4 bytes each."""
_ROWS = 1_000
"""Rows after which what is known is handed out."""


def identity(base_model: Any, *, chat_template_kwargs: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return what tells the figures of one model from those of another: base_sha256, base_model, asked_as.

    Args:
        base_model: As in ``resolve_model``.
        chat_template_kwargs: As in ``tokenize``.
    """
    base = base_fingerprint(resolve_model(base_model))
    asked_as = json.dumps(dict(chat_template_kwargs or {}), sort_keys=True)
    return {"base_sha256": base["sha256"], "base_model": base["name"], "asked_as": asked_as}


def digests(answers: pl.DataFrame) -> pl.DataFrame:
    """Return custom_id and output_sha256 of answers.

    Args:
        answers: Columns id and output (text).
    """
    texts = [hashlib.sha256(text.encode()).hexdigest() for text in answers["output"]]
    return answers.select(custom_id="id", output_sha256=pl.Series(texts, dtype=pl.String))


def perplexities(
    answers: pl.DataFrame, tokenized: pl.DataFrame, *, base_model: Any, identity: Mapping[str, str]
) -> Iterator[pl.DataFrame]:
    """Yield how likely each answer is under a model that was not trained on it, given its prompt.

    The perplexity is exp(-logprob_mean). Its tokens are those that would be trained: the answer, and the token that
    ends it. Numbers are float32 (weights bfloat16 on a GPU).

    Args:
        answers: Columns id, output and task.
        tokenized: Rows of them, from ``tokenize``; only those that are ok.
        base_model: As in ``resolve_model``.
        identity: From ``identity``.

    Yields:
        Rows of the table ``perplexities``, up to 1,000: custom_id, output_sha256, task, logprob_mean (nats a token, at
        most 0), n_supervised and what ``identity`` holds.

    Raises:
        PrerequisiteError: There is no such model on this machine.
        TrainingError: The model gives a probability that is no number.
    """
    # those of one length together: where nothing is padded, no model can read padding
    rows = tokenized.filter(pl.col("status") == "ok").sort("n_tokens", "id")
    if not rows.height:
        return
    model, device = _model(resolve_model(base_model))
    about = digests(answers).with_columns(answers["task"], *(pl.lit(v).alias(k) for k, v in identity.items()))
    for part in rows.iter_slices(_ROWS):
        means = [mean for batch in _batches(part) for mean in _means(model, batch, device)]
        if not all(map(math.isfinite, means)):
            raise TrainingError(f"{base_model} gives a probability that is no number; are its weights whole?")
        known = part.select(custom_id="id", n_supervised="n_supervised", logprob_mean=pl.Series(means))
        yield known.join(about, on="custom_id", how="left", maintain_order="left")


def _model(folder: Path) -> tuple[Any, str]:
    import torch
    from transformers import AutoModelForCausalLM

    device, _ = compute_device()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval(), device


def _batches(rows: pl.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """Rows of the same number of tokens, as many as one pass takes."""
    for _, same in rows.group_by("n_tokens", maintain_order=True):
        size = max(1, _TOKENS // same["n_tokens"][0])
        for batch in same.iter_slices(size):
            yield batch.select("input_ids", "labels").to_dicts()


def _means(model: Any, batch: list[dict[str, Any]], device: str) -> list[float]:
    """The mean log-probability of the trained tokens of each row."""
    import torch

    ids, labels = (torch.tensor([row[name] for row in batch], device=device) for name in ("input_ids", "labels"))
    with torch.inference_mode():
        of_token = log_probabilities(model, ids, labels)
    n = (labels != NOT_TRAINED).sum(dim=1)
    return [float(mean) for mean in of_token.double().sum(dim=1) / n]


def log_probabilities(model: Any, ids: Any, labels: Any) -> Any:
    """Return the log-probability of each trained token of some rows, nats; 0 where nothing is trained."""
    import torch

    n_prompt = int((labels != NOT_TRAINED).int().argmax(dim=1).min())  # labels follow a prompt, whatever its length
    keeps = {"logits_to_keep": ids.shape[1] - n_prompt + 1} if _may_keep_few(model) else {}
    logits = model(input_ids=ids, use_cache=False, **keeps).logits
    targets = labels[:, n_prompt:]
    # the token before says what comes next; where all were kept, those of the prompt go
    before = logits[:, -(targets.shape[1] + 1) : -1].float()
    return -torch.nn.functional.cross_entropy(
        before.transpose(1, 2), targets, ignore_index=NOT_TRAINED, reduction="none"
    )


def _may_keep_few(model: Any) -> bool:
    """Whether it can leave out the numbers of the prompt's tokens, most of the memory of a short answer."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
