"""The process that trains one adapter: `python -m arislab.finetune.worker SPEC.json`, started by `finetune.train`.

Beside the spec it finds examples.parquet and, if losses are to be measured, validation.parquet; it appends to
progress.jsonl, writes result.json (the row that `train` returns) or refused.txt (what the user must change), and moves
the adapter to its place as its last act. A training that was killed goes on from its newest checkpoint; of what memory
or disk refused, the exit code is the number of the error. Each process of a training in several (`ranks`) runs this,
and the first writes.

On a GPU (`on_gpu`) LoRA and QLoRA were run on one H100; Unsloth was run on a CPU only, and going on was too.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import polars as pl

from arislab import __version__
from arislab.errors import TrainingError
from arislab.finetune import adapters, checkpoints, limits, pairs
from arislab.finetune.labels import NOT_TRAINED, count_statuses, none_usable, tokenize
from arislab.finetune.meter import Meter
from arislab.finetune.ranks import is_first
from arislab.finetune.trainer import new_trainer, sums
from arislab.finetune.weights import base_fingerprint, load_tokenizer


def _main(spec_path: str) -> int:
    """Train one set and write its adapter; result.json beside the spec says how it went."""
    from safetensors import SafetensorError

    work = Path(spec_path).parent
    spec = json.loads(Path(spec_path).read_text())
    try:
        row = _train_one(spec, work)
        if is_first():
            (work / "result.json").write_text(json.dumps(row))
    except TrainingError as error:
        (work / "refused.txt").write_text(str(error))
        raise
    except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
        if (limit := limits.reached(error)) is None:
            raise
        with contextlib.suppress(OSError):
            traceback.print_exc()
            (work / "refused.txt").write_text(" ".join(str(error).split()))
        return limit
    return 0


def _train_one(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    """Train one set and return its row."""
    began, settings, base = time.time(), spec["settings"], Path(spec["base_model"])
    if settings["backend"] == "unsloth":
        importlib.import_module("unsloth")  # it patches trl and transformers, and must come first
    import torch
    import transformers

    if spec["device"] == "cpu":
        torch.set_num_threads(1)  # more would add the same numbers in another order, and so to other sums
    transformers.set_seed(settings["seed"])  # the adapter's first weights; the trainer seeds the order of examples
    tokenizer = load_tokenizer(base)
    examples, rows, left_out = _usable(work / "examples.parquet", tokenizer, spec)
    validation = None
    if (work / "validation.parquet").exists():
        validation, *_ = _usable(work / "validation.parquet", tokenizer, spec)
    numbers: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    if "preference" in spec:
        from arislab.finetune import preferring  # torch and transformers, which Unsloth must come before

        examples = preferring.drawn(examples, spec)
        trainer = preferring.new_trainer(spec, tokenizer, examples, work)
        numbers, beside = preferring.recorded(spec, examples)
    else:
        trainer = new_trainer(spec, tokenizer, examples, work)
    given = {
        "name": spec["name"],
        "arm": spec["arm"],
        "base": base_fingerprint(base),
        "data_sha256": _data_sha256(examples),
        "validation_sha256": None if validation is None else _data_sha256(validation),
        **beside,
    }
    if "preference" in spec and validation is not None:
        validation = trainer.referenced(validation)
    versions = _versions(settings["backend"], settings["method"])
    saved = _checkpoints(spec, work, began, **given, versions=versions)
    meter = Meter(
        trainer,
        validation,
        progress=work / "progress.jsonl",
        parent=spec["parent"],
        n_trained_tokens=_n_trained_tokens(examples),
        patience=settings.get("early_stopping", 0),
    )
    trainer.add_callback(meter.callback())
    saved.train(trainer, remember=meter.remember, recall=meter.recall)
    if "preference" in spec:
        meter.records[-1] |= trainer.measured(meter.batches)

    hyperparameters = {
        **settings,
        **_facts(trainer, tokenizer, examples),
        "chat_template_kwargs": spec["chat_template_kwargs"],
        "system_role": spec["system_role"],
        "rows": rows,
        "versions": versions,
        **sums(trainer),
        **meter.outcome,
        **numbers,
    }
    manifest = {**given, "hyperparameters": hyperparameters}
    if not is_first():
        return {}
    path, adapter_sha256 = adapters.write(trainer, base, Path(spec["folder"]), manifest, work / "adapter")
    last_epoch = meter.kept_step - math.ceil(trainer.state.max_steps / settings["num_train_epochs"])
    return {
        # of what went in and of the versions, not of the weights: another machine may round otherwise
        "id": "ft-" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16],
        "name": spec["name"],
        "arm": spec["arm"],
        "base_model": manifest["base"]["name"],
        "method": spec["preference"]["loss"] if "preference" in spec else settings["method"],
        "training_examples": examples.height,
        "train_loss": meter.train_loss(since=last_epoch),
        "eval_loss": meter.eval_loss,
        "model_path": str(path),
        "hyperparameters": json.dumps(hyperparameters),
        "adapter_sha256": adapter_sha256,
        "device": spec["device"] if spec["device"] == "cpu" else torch.cuda.get_device_name(0),
        "losses": json.dumps(meter.records),
        "left_out": json.dumps(left_out),
        "resumed": saved.resumed,
        "seconds": saved.seconds_before,
    }


def _checkpoints(spec: dict[str, Any], work: Path, began: float, **given: Any) -> checkpoints.Checkpoints:
    """Return the checkpoints of a training with this identity: what it is given, and the code that trains."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    kept = ("settings", "device", "chat_template_kwargs", "system_role")
    parts = {**given, **{key: spec[key] for key in kept}, "code": code.hexdigest()}
    parts |= {"preference": spec["preference"]} if "preference" in spec else {}
    identity = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    folder = Path(spec["folder"]) / checkpoints.FOLDER / identity[:32]
    (work / "checkpoints.txt").write_text(str(folder))  # for the parent, which removes them when all is well
    return checkpoints.Checkpoints(folder, identity, **spec["checkpoints"], began=began)


def _facts(trainer: Any, tokenizer: Any, examples: pl.DataFrame) -> dict[str, Any]:
    """Return what the trainer made of the settings, for the record."""
    stops = sorted({labels[-1] for labels in examples["labels"].to_list()})
    return {
        "target_modules": "all-linear",
        "lora_dropout": 0.0,
        "optim": str(getattr(trainer.args.optim, "value", trainer.args.optim)),
        "lr_scheduler_type": "cosine",
        "warmup_steps": int(trainer.args.warmup_steps),
        "steps": trainer.state.max_steps,
        "stop_tokens": tokenizer.convert_ids_to_tokens(stops),
    }


def _usable(path: Path, tokenizer: Any, spec: dict[str, Any]) -> tuple[pl.DataFrame, dict[str, int], dict[str, str]]:
    """Return the rows that can be trained on, the count of all rows by status, and the status of each of the others."""
    settings = spec["settings"]
    tokenized = (pairs.tokenize_preferences if "preference" in spec else tokenize)(
        pl.read_parquet(path),
        tokenizer,
        max_length=settings["max_length"],
        chat_template_kwargs=spec["chat_template_kwargs"],
    )
    usable = tokenized.filter(pl.col("status") == "ok")
    if usable.is_empty():
        raise TrainingError(none_usable(tokenized, f"{path.stem} of arm {spec['arm']!r}"))
    others = tokenized.filter(pl.col("status") != "ok")
    return usable, count_statuses(tokenized), dict(others.select("id", "status").iter_rows())


def _n_trained_tokens(examples: pl.DataFrame) -> int:
    """Tokens that count in the loss, of both answers where there are two."""
    columns = [name for name in ("labels", "other_labels") if name in examples.columns]
    return sum(
        label != NOT_TRAINED for name in columns for labels in examples[name].to_list() for label in (labels or [])[1:]
    )


def _data_sha256(tokenized: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for row in tokenized.select(pairs.columns(tokenized, known=pairs.TRAINED)).iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _versions(backend: str, method: str) -> dict[str, str]:
    names = ["torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "safetensors"]
    names += ["unsloth"] * (backend == "unsloth") + ["bitsandbytes"] * (method == "qlora")
    # arislab's own says itself: a checkout on the path need not be installed
    return {"arislab": __version__} | {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
