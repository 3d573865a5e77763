"""LoRA adapters that are named by their content, one per set of examples.

An example, one row of what every function here reads:

    id        "r-5f0c…"                                  unique in its set
    messages  '[{"role": "system", "content": "Evaluate …"}, {"role": "user", "content": "Title: Nurse …"}]'
    output    '{"strengths": [], "score": 0.41}'         the assistant's answer: the only text that is trained

Each set of examples is trained by TRL + PEFT in a process of its own (`arislab.finetune.worker`), on token ids and
labels that are built and checked here: TRL neither renders, nor masks, nor cuts. An adapter is a folder
`<name>-<arm>-<first 12 hex of its weights' sha256>`: written beside its final place, renamed once, never changed. That
folder name is the model name under which the embedded server and vLLM serve it.

What it does not know: nothing here was run on a GPU. `backend="unsloth"` and `method="qlora"` were run on a CPU; the
tests run them where the packages are installed, else they skip. A training uses one device, or several by `accelerate
launch` (``Settings.num_processes``). One that was killed goes on from its newest checkpoint (see ``checkpoints``), on a
CPU to the same adapter, bit for bit.
"""

import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import ParameterError, PrerequisiteError, TrainingError
from arislab.finetune import checkpoints
from arislab.finetune.children import Child, supervise, sweep
from arislab.finetune.labels import none_usable, tokenize
from arislab.finetune.ranks import VARIABLE
from arislab.finetune.settings import BFLOAT16, Settings, check_name
from arislab.finetune.template import ChatTemplate, check_template
from arislab.finetune.trained import COLUMNS
from arislab.finetune.weights import compute_device, load_tokenizer, resolve_model, visible_gpus
from arislab.system import processes
from arislab.system.imports import require
from arislab.system.kinds import takes_any_frame
from arislab.tiny.weights import multiplies_bfloat16

TRAINING_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


@takes_any_frame
def train(
    sets: Mapping[str, pl.DataFrame],
    validation: pl.DataFrame | None,
    settings: Settings | None = None,
    *,
    workers: int | None = None,
    seeds: int = 1,
    **named: Any,
) -> pl.DataFrame:
    """Train a LoRA adapter per set and seed, each in a process of its own, all with the same settings.

    Rows are ordered by id before training, so the order of a frame changes nothing. On a CPU the same rows, settings,
    seed and versions give the same adapter, bit for bit.

    Args:
        sets: arm -> examples (columns id, messages, output), such as ``{"curated": …, "control": …}``.
        validation: examples of no set, scored before, three times during, and after training; None, or without a row:
            not scored.
        settings: see ``Settings``.
        workers: trainings at once; default 2 (1 on a single core) on a CPU, else as many as there are GPUs for, each
            with its own.
        seeds: trainings of each set: with the seed of the settings, the one after it, and so on.
        named: fields of ``Settings`` by name, in place of them or to change some, such as ``base_model="tiny", r=16``.

    Returns:
        One row per seed and set: id (the same for the same inputs), name, arm, base_model, method, training_examples,
        train_loss (nats per trained token, mean of the last epoch), eval_loss (the same over `validation`, at the end;
        null without; with early_stopping both are of the weights that are kept), model_path, hyperparameters (JSON; its
        `rows` counts the set's examples by status, their sum is the set's height; its `early_stop` says which step is
        kept and which was the last), adapter_sha256 (of the weights file), seconds (wall, start-up included, of all
        attempts), device, losses (JSON, see `losses`), left_out (JSON: id to status of the set's examples that were not
        trained on), resumed (how often it went on from a checkpoint).

    Raises:
        TrainingError: a set or `validation` has no usable row, they share an id, or a training process failed: for want
            of memory or disk with what to change.
        ParameterError: a setting that is unknown or out of range.
        PrerequisiteError: a package or the base model is missing.
    """
    return run(sets, validation, _settings(settings, named), workers=workers, seeds=seeds)


def run(
    sets: Mapping[str, pl.DataFrame],
    validation: pl.DataFrame | None,
    settings: Settings,
    *,
    workers: int | None,
    seeds: int,
    preference: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Train as `train` says; with `preference` (see ``preference.prefer``) the sets are preferences."""
    if not sets:
        raise ParameterError('sets is empty; give at least one, such as {"curated": examples}.')
    validation = None if validation is None or validation.is_empty() else validation
    template = check(settings, arms=tuple(sets))
    base, folder = resolve_model(settings.base_model), Path(settings.folder).resolve()
    device, n = compute_device()[0], settings.num_processes
    places = _places(visible_gpus(), n) if device == "cuda" else []
    if preference is not None and n > 1:
        raise ParameterError(
            f"preferences are trained in one process, got num_processes {n}; make it 1, or unset ${VARIABLE}."
        )
    if workers is None:
        workers = len(places) or max(1, min(2, (os.cpu_count() or 1) // n))
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= 100:
        raise ParameterError(f"seeds must be a whole number from 1 to 100, got {seeds!r}; trainings of each set.")
    if workers < 1:
        raise ParameterError(f"workers must be at least 1, got {workers!r}.")
    if settings.early_stopping and validation is None:
        raise ParameterError(
            f"early_stopping {settings.early_stopping} needs held-out examples, and there are none; give `validation` "
            "some (phase 4 holds out a twentieth, where that are 30 or more), or leave it 0."
        )
    for arm, examples in sets.items():
        _check_examples(arm, examples, validation)
    scored = {} if validation is None else {"validation": validation}
    _check_lengths({**sets, **scored}, base, template, settings.max_length)
    folder.mkdir(parents=True, exist_ok=True)
    spec: dict[str, Any] = {
        "name": settings.name,
        "base_model": str(base.resolve()),
        "folder": str(folder),
        "device": device,
        "settings": {**settings.numbers, "backend": _backend(settings, device)},
        "chat_template_kwargs": dict(template.chat_template_kwargs),
        "system_role": template.system_role,
        "checkpoints": settings.checkpoints,
        "until_settled": settings.until_settled,
        "parent": processes.identity(os.getpid()),
        **({} if preference is None else {"preference": dict(preference)}),
    }
    specs = [
        {**spec, "settings": {**spec["settings"], "seed": (settings.seed + more) % 2**32}} for more in range(seeds)
    ]
    sweep(folder)
    children: list[Child] = []
    try:
        for one, (arm, examples) in itertools.product(specs, sets.items()):
            children.append(Child(arm, examples, validation, one))
        supervise(children, workers, places)
    finally:
        for child in children:
            child.close()
    return pl.DataFrame([child.row for child in children], schema=COLUMNS)  # one row per seed and set


def _places(gpus: Sequence[str], n: int) -> list[str]:
    """Return the GPUs of each training that can run at once, as CUDA_VISIBLE_DEVICES."""
    if n > len(gpus):
        raise ParameterError(f"num_processes must be at most {len(gpus)}, the GPUs that are visible, got {n}.")
    return [",".join(gpus[at : at + n]) for at in range(0, len(gpus) - n + 1, n)]


def settle(trained: pl.DataFrame, settings: Settings) -> None:
    """Remove the checkpoints of trainings whose rows are written, see ``Settings.until_settled``.

    Args:
        trained: From `train`: id.
        settings: As in `train`; reads folder.
    """
    checkpoints.settle(Path(settings.folder), trained["id"].to_list())


def check(
    settings: Settings | None = None, *, arms: Sequence[str] = ("curated", "control"), **named: Any
) -> ChatTemplate:
    """Refuse what `train` could not do, before anything is read.

    Args:
        settings: As in `train`; the disk of their folder must have room for the adapters.
        arms: Names of the sets.
        named: As in `train`.

    Returns:
        What the model's chat template asks of training and serving.

    Raises:
        ParameterError: a setting that is unknown or out of range.
        PrerequisiteError: a package or the base model is missing, its chat template cannot be trained and served alike,
            or the disk is full.
    """
    settings = _settings(settings, named)
    for arm in arms:
        check_name(arm)
    require("fine-tuning", 'pip install "arislab[train]"', *TRAINING_PACKAGES)
    base = resolve_model(settings.base_model)
    _backend(settings, compute_device()[0])
    config = json.loads((base / "config.json").read_text("utf-8"))
    context = config.get("max_position_embeddings")
    if isinstance(context, int) and settings.max_length > context:
        raise ParameterError(
            f"max_length must be at most {context}, the context of {settings.base_model}, got {settings.max_length}; "
            "servers refuse what is longer."
        )
    template = check_template(base, chat_template_kwargs=settings.chat_template_kwargs)
    # a checkpoint is weights and two moments of each, and a third is written before the first is removed
    times = 10 if any(settings.checkpoints.values()) else 1
    _check_disk(Path(settings.folder), base, settings.r * len(arms) * times)
    return template


def _settings(settings: Settings | None, named: Mapping[str, Any]) -> Settings:
    """Notebooks of earlier versions name each setting in the call."""
    return Settings(**named) if settings is None else dataclasses.replace(settings, **named)


def _check_lengths(sets: Mapping[str, pl.DataFrame], base: Path, template: ChatTemplate, max_length: int) -> None:
    """Refuse a set of which no example can be trained; the children would find out one after the other."""
    tokenizer, kwargs = load_tokenizer(base), template.chat_template_kwargs
    for arm, examples in sets.items():
        tokenized = tokenize(examples, tokenizer, max_length=max_length, chat_template_kwargs=kwargs)
        if not tokenized["status"].is_in(["ok"]).any():
            raise TrainingError(f"{none_usable(tokenized, f'examples of set {arm!r}')}. Nothing was trained.")


def _check_disk(folder: Path, base: Path, ranks: int) -> None:
    """Refuse a disk without room for the adapters and their checkpoints.

    Rank x (inputs + outputs) x 4 bytes for each matrix of the model, and the tokenizer's files.
    """
    place = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    needed = ranks * 4 * sum(map(_sides, base.glob("*.safetensors"))) + 64 * 2**20
    if (free := shutil.disk_usage(place).free) < needed:
        raise PrerequisiteError(
            f"{place} has {free / 2**20:,.0f} MB free, and the adapters and their checkpoints take up to "
            f"{needed / 2**20:,.0f} MB while they are written; make room, or give another root."
        )


def _sides(path: Path) -> int:
    """Sum of rows and columns of all matrices in a file of weights, from its header."""
    with path.open("rb") as file:
        header = file.read(8)
        size = int.from_bytes(header, "little")
        text = file.read(min(size, 2**26))  # of what is no file of weights, the size may be anything
    if len(header) < 8 or len(text) < size:
        return 0  # no file of weights: loading it says so
    shapes = [tensor.get("shape", []) for name, tensor in json.loads(text).items() if name != "__metadata__"]
    return sum(sum(shape) for shape in shapes if len(shape) == 2)


def _check_examples(arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None) -> None:
    for label, frame in ((f"set {arm!r}", examples), ("validation", validation)):
        if frame is None:
            continue
        if missing := {"id", "messages", "output"} - set(frame.columns):
            raise TrainingError(f"{label} has no column {sorted(missing)}; examples have id, messages and output.")
        if frame.is_empty():
            raise TrainingError(f"{label} has no rows; there is nothing to train on or to score.")
        if repeated := frame["id"].is_duplicated().sum():
            raise TrainingError(f"{label} has {repeated} rows with repeated ids; keep one of each.")
    if validation is not None and (shared := examples.join(validation, on="id", how="semi").height):
        raise TrainingError(
            f"{shared} examples of set {arm!r} also stand in validation; take them out of one of the two."
        )


def _backend(settings: Settings, device: str) -> str:
    """Return the backend that `auto` stands for, or refuse one whose packages are missing."""
    backend, n = settings.backend, settings.num_processes
    if n > 1 and (backend == "unsloth" or (settings.method == BFLOAT16 and device == "cpu")):
        what = "backend 'unsloth'" if backend == "unsloth" else f"method {BFLOAT16!r} on a CPU"
        raise ParameterError(f"{what} trains in one process, got num_processes {n}; make it 1, or unset ${VARIABLE}.")
    if backend == "auto" and n > 1:
        backend = "trl"
    if backend == "auto":
        backend = "unsloth" if device == "cuda" and importlib.util.find_spec("unsloth") else "trl"
    if backend == "unsloth":
        require("backend='unsloth'", "pip install 'unsloth>=2026.8'", "unsloth")
    if settings.method == BFLOAT16 and device == "cpu":
        if backend == "unsloth":
            raise ParameterError(f"method {BFLOAT16!r} on a CPU needs backend 'trl', got 'unsloth'.")
        if not multiplies_bfloat16():
            raise PrerequisiteError(
                f"method {BFLOAT16!r} needs a CPU that multiplies bfloat16 (AVX512_BF16 or AMX), and this one converts "
                "at each product, which is slower than float32; use method 'lora'."
            )
    if settings.method == "qlora":
        require("method='qlora'", "pip install 'bitsandbytes>=0.48'", "bitsandbytes")
    return backend
