"""Preference training: an adapter that makes the better of two answers likelier, beside a control of chance.

An adapter that learned from examples is trained further, so that one adapter is served; or a new one on the base. The
control learns from the same answers, but chance says which are better: the difference is what preferences are worth.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.errors import ParameterError, TrainingError, closest
from arislab.finetune.labels import count_statuses
from arislab.finetune.pairs import tokenize_preferences
from arislab.finetune.settings import Settings
from arislab.finetune.training import check, run
from arislab.finetune.weights import base_fingerprint, load_tokenizer, resolve_model
from arislab.system import files

LOSSES = ("dpo", "ipo", "kto")
"""Of pairs: dpo and ipo; of single verdicts: kto."""


def prefer(
    preferences: pl.DataFrame,
    validation: pl.DataFrame | None,
    settings: Settings,
    *,
    start: str | Path | Sequence[str | Path] | None = None,
    loss: str = "dpo",
    beta: float = 0.1,
    learning_rate: float = 2e-4,
    control: bool = True,
    least: int = 30,
    workers: int | None = None,
    seeds: int = 1,
    **named: Any,
) -> pl.DataFrame:
    """Train an adapter on preferences, and beside it a control for which chance says which answer is better.

    Nothing is cut: a row that says nothing, or of which one answer cannot be trained (``tokenize``), is left out with a
    status. On a CPU the same rows, settings, start and versions give the same adapter, bit for bit.

    Args:
        preferences: dpo, ipo: rows of the table ``preferences`` (reads pair_id, messages, chosen, rejected); kto: of
            ``preferences.rated`` (reads id, messages, output, is_desirable).
        validation: the same of candidates that are not learned from; None or no row: nothing is measured.
        settings: see ``Settings``; r and lora_alpha are those of `start`, the backend is trl.
        start: folder of an adapter that is trained further, or one for each seed; None: a new one on the base.
        loss: "dpo", "ipo" or "kto".
        beta: how strongly the adapter is held to where it starts, above 0.
        learning_rate: its peak, in place of that of the settings. With 1e-3 and beta 0.1 the embedded model told 81 %
            of the held-out pairs apart and answered far worse than before: ask the arms.
        control: train the control too.
        least: fewest rows to train on; of kto a third of each kind.
        workers: as in ``train``.
        seeds: as in ``train``.
        named: fields of ``Settings`` to change.

    Returns:
        As ``train``, a row per seed and arm (`loss`, and `loss`-control); losses are nats per row, and log 2 is what
        dpo has before it learns. ``told_apart`` reads how `validation` is told apart at the end.

    Raises:
        TrainingError: too few rows can be trained, or `start` is damaged or of another base.
        ParameterError: a setting that is unknown, out of range, or other than that of `start`.
        PrerequisiteError: as in ``train``.
    """
    settings = dataclasses.replace(settings, **named, learning_rate=learning_rate)
    if loss not in LOSSES:
        raise ParameterError(f"loss {loss!r} is not known; {closest(str(loss), LOSSES)}.")
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta <= 1_000:
        raise ParameterError(f"beta must be a number above 0, at most 1,000, got {beta!r}; 0.1 is usual.")
    if settings.backend == "unsloth":
        raise ParameterError("backend must be 'trl' or 'auto' for preferences, got 'unsloth', which was not tried.")
    settings = dataclasses.replace(settings, backend="trl")
    starts = _starts(start, settings, seeds)
    if starts:  # with the date that it was told, too
        settings = dataclasses.replace(settings, chat_template_kwargs=starts[0]["chat_template_kwargs"])
    arms = [loss, f"{loss}-control"][: 1 + control]
    template = check(settings, arms=arms)
    examples = _examples(preferences, loss)
    how = {"max_length": settings.max_length, "chat_template_kwargs": template.chat_template_kwargs}
    tokenizer = load_tokenizer(settings.base_model)
    _check_number(tokenize_preferences(examples, tokenizer, **how), loss, least)
    held_out = None if validation is None or validation.is_empty() else _examples(validation, loss)
    if held_out is not None:
        held_out = held_out if "ok" in tokenize_preferences(held_out, tokenizer, **how)["status"] else None
    names = [str((settings.seed + more) % 2**32) for more in range(_whole(seeds))]
    of_seed = dict(zip(names, starts, strict=True)) if starts else dict.fromkeys(names)
    preference = {"loss": loss, "beta": float(beta), "controls": arms[1:], "starts": of_seed}
    return run(dict.fromkeys(arms, examples), held_out, settings, workers=workers, seeds=seeds, preference=preference)


def told_apart(trained: pl.DataFrame) -> pl.DataFrame:
    """Return how well what ``prefer`` trained tells the held-out rows apart.

    Returns:
        One row per training that was measured: model_path, arm, accuracy (share of pairs in which the better answer
        gained more likelihood than the other since the start, ties half; of kto over all pairs of a desirable and an
        undesirable row), margin (mean of what it gained more, nats; of ipo per token) and n (rows).
    """
    lasts = [json.loads(curve)[-1] for curve in trained["losses"]]
    columns = {"accuracy": pl.Float64, "margin": pl.Float64, "n": pl.Int64}
    told = [pl.Series(name, [last.get(name) for last in lasts], dtype=kind) for name, kind in columns.items()]
    return trained.select("model_path", "arm", *told).drop_nulls()


def preference_rows(trained: pl.DataFrame, preferences: pl.DataFrame, validation: pl.DataFrame | None) -> pl.DataFrame:
    """Return which outputs each adapter learned from, in the columns of ``training_rows``.

    Args:
        trained: What ``prefer`` returned.
        preferences: What it was given (reads pair_id or id, and custom_ids: the outputs behind a row).
        validation: What it was given.

    Returns:
        One row per adapter and output: model_path, arm, id (custom_id), role (trained, where one row that it stands
        behind was; else held out; else why it was left out).
    """
    parts = []
    for arm, path, left_out in trained.select("arm", "model_path", "left_out").iter_rows():
        why = json.loads(left_out)
        role = pl.col("name").replace_strict(why, default="trained", return_dtype=pl.String)
        frames = [_behind(preferences).with_columns(role=role, rank=pl.col("name").is_in(list(why)).cast(pl.Int8) * 2)]
        if validation is not None:
            frames.append(_behind(validation).with_columns(role=pl.lit("held out"), rank=pl.lit(1, pl.Int8)))
        first = pl.concat(frames).sort("rank", "id", "role").unique("id", keep="first", maintain_order=True)
        parts.append(first.sort("id").select(pl.lit(path).alias("model_path"), pl.lit(arm).alias("arm"), "id", "role"))
    return pl.concat(parts)


def _behind(preferences: pl.DataFrame) -> pl.DataFrame:
    name = "pair_id" if "pair_id" in preferences.columns else "id"
    return preferences.select(name=name, id="custom_ids").explode("id")


def _examples(preferences: pl.DataFrame, loss: str) -> pl.DataFrame:
    """The columns that are trained on, of pairs or of single verdicts."""
    is_kto = loss == "kto"
    needed = ("id", "messages", "output", "is_desirable") if is_kto else ("pair_id", "messages", "chosen", "rejected")
    if missing := set(needed) - set(preferences.columns):
        raise ParameterError(f"the rows for loss {loss!r} have no column {sorted(missing)}; it reads {list(needed)}.")
    rows = preferences.select(needed)
    return rows if is_kto else rows.rename({"pair_id": "id", "chosen": "output"})


def _check_number(tokenized: pl.DataFrame, loss: str, least: int) -> None:
    """Refuse fewer rows than anything can be learned from."""
    usable, counts = tokenized.filter(pl.col("status") == "ok"), count_statuses(tokenized)
    if usable.height < least:
        reasons = tokenized["reason"].drop_nulls().unique(maintain_order=True).head(3).to_list()
        why = f" ({counts}; first reasons: {reasons})" if reasons else ""
        raise TrainingError(
            f"{usable.height} of {tokenized.height} preferences can be trained{why}, and at least {least} are needed: "
            f"{least - usable.height} more. Let people decide more, or give least."
        )
    good = int(usable["is_desirable"].sum()) if loss == "kto" else least
    if min(good, usable.height - good) < least // 3 and loss == "kto":
        raise TrainingError(
            f"{good} answers are desirable and {usable.height - good} are not, and at least {least // 3} of each are "
            "needed. Let people decide more, or give least."
        )


# ---- where it starts -------------------------------------------------------------------------------------------------


def _starts(start: Any, settings: Settings, seeds: int) -> list[dict[str, Any]]:
    """The adapter of each seed, verified: its record and what a process needs of it; none for the base."""
    if start is None or not _whole(seeds):
        return []
    given = [start] * _whole(seeds) if isinstance(start, str | Path) else list(start)
    if len(given) != seeds:
        raise ParameterError(f"start must be one adapter, or one for each of {seeds} seeds, got {len(given)}.")
    base = base_fingerprint(resolve_model(settings.base_model))
    return [_verified(Path(folder), settings, base) for folder in given]


def _verified(folder: Path, settings: Settings, base: Mapping[str, str]) -> dict[str, Any]:
    """The record of an adapter whose files are those that were trained, of this base and of these settings."""
    try:
        record = json.loads((folder / "manifest.json").read_text("utf-8"))
        digests, of, learned = record["files"], record["base"], record["hyperparameters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder} is no adapter that finetune.train wrote ({error}); start from one, or from the base (None)."
        ) from None
    damaged = [name for name, sha in digests.items() if not _is_whole(folder / name, sha)]
    if damaged:
        raise TrainingError(f"{', '.join(damaged)} in {folder} are not as they were trained; train that adapter again.")
    if of["sha256"] != base["sha256"]:
        raise TrainingError(
            f"{folder} was trained on {of['name']} ({of['sha256'][:12]}), and base_model is {base['name']} "
            f"({base['sha256'][:12]}); adapters fit their own base only, so give that one."
        )
    for name in ("r", "lora_alpha"):
        if learned[name] != getattr(settings, name):
            raise ParameterError(
                f"{name} must be {learned[name]}, that of {folder}, got {getattr(settings, name)}; its weights are "
                "trained further."
            )
    mine = {name: value for name, value in (settings.chat_template_kwargs or {}).items() if name != chat.DATE}
    theirs = {name: v for name, v in (learned.get("chat_template_kwargs") or {}).items() if name != chat.DATE}
    if mine not in ({}, theirs):
        raise ParameterError(
            f"chat_template_kwargs must be {theirs}, with which {folder} was trained, got {mine}; leave it out."
        )
    sha256 = digests["adapter_model.safetensors"]
    told = learned.get("chat_template_kwargs") or {}
    return {"path": str(folder.resolve()), "sha256": sha256, "chat_template_kwargs": told}


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and files.of_file(path)["sha256"] == sha256


def _whole(seeds: Any) -> int:
    """The number of seeds where it is one; ``run`` refuses it where it is none."""
    return seeds if isinstance(seeds, int) and 0 < seeds <= 100 else 0
