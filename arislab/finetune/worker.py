"""The process that trains one adapter: `python -m arislab.finetune.worker SPEC.json`, started by `finetune.train`.

Beside the spec it finds examples.parquet and, if losses are to be measured, validation.parquet; it appends to
progress.jsonl, writes result.json (the row that `train` returns) or refused.txt (what the user must change), and moves
the adapter to its place as its last act.

On a GPU (`on_gpu`) LoRA and QLoRA were run on one H100; Unsloth was run on a CPU only. A run that was killed starts
again.
"""

import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from arislab import __version__
from arislab.errors import TrainingError
from arislab.finetune import adapters, pairs
from arislab.finetune.labels import NOT_TRAINED, count_statuses, none_usable, tokenize
from arislab.finetune.trainer import new_trainer
from arislab.finetune.weights import base_fingerprint, load_tokenizer


def _main(spec_path: str) -> int:
    """Train one set and write its adapter; result.json beside the spec says how it went."""
    work = Path(spec_path).parent
    spec = json.loads(Path(spec_path).read_text())
    try:
        result = _train_one(spec, work)
    except TrainingError as error:
        (work / "refused.txt").write_text(str(error))
        raise
    (work / "result.json").write_text(json.dumps(result))
    return 0


def _train_one(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    """Train one set and return its row."""
    settings, base = spec["settings"], Path(spec["base_model"])
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
        validation = None if validation is None else trainer.referenced(validation)
        numbers, beside = preferring.recorded(spec, examples)
    else:
        trainer = new_trainer(spec, tokenizer, examples, work)
    meter = _Meter(trainer, validation, work / "progress.jsonl", spec["parent_pid"])
    trainer.add_callback(meter.callback())
    trainer.train()
    if "preference" in spec:
        meter.records[-1] |= trainer.measured(meter.batches)

    hyperparameters = {
        **settings,
        **_facts(trainer, tokenizer, examples),
        "chat_template_kwargs": spec["chat_template_kwargs"],
        "system_role": spec["system_role"],
        "rows": rows,
        "versions": _versions(settings["backend"], settings["method"]),
        **numbers,
    }
    manifest = {
        "name": spec["name"],
        "arm": spec["arm"],
        "base": base_fingerprint(base),
        "data_sha256": _data_sha256(examples),
        "validation_sha256": None if validation is None else _data_sha256(validation),
        "hyperparameters": hyperparameters,
        **beside,
    }
    path, adapter_sha256 = adapters.write(trainer, base, Path(spec["folder"]), manifest, work / "adapter")
    last_epoch = trainer.state.max_steps - math.ceil(trainer.state.max_steps / settings["num_train_epochs"])
    return {
        # of what went in and of the versions, not of the weights: another machine may round otherwise
        "id": "ft-" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16],
        "name": spec["name"],
        "arm": spec["arm"],
        "base_model": manifest["base"]["name"],
        "method": spec["preference"]["loss"] if "preference" in spec else settings["method"],
        "training_examples": examples.height,
        "train_loss": meter.train_loss(since=last_epoch),
        "eval_loss": meter.records[-1]["eval_loss"],
        "model_path": str(path),
        "hyperparameters": json.dumps(hyperparameters),
        "adapter_sha256": adapter_sha256,
        "device": spec["device"] if spec["device"] == "cpu" else torch.cuda.get_device_name(0),
        "losses": json.dumps(meter.records),
        "left_out": json.dumps(left_out),
    }


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


class _Meter:
    """Records losses and progress, and stops when the parent has died."""

    def __init__(self, trainer: Any, validation: pl.DataFrame | None, progress: Path, parent_pid: int) -> None:
        self.trainer, self.progress, self.parent_pid = trainer, progress, parent_pid
        self.records: list[dict[str, Any]] = []
        self.batches = [] if validation is None else list(self._batches(validation))

    def _batches(self, validation: pl.DataFrame) -> Iterator[dict[str, Any]]:
        rows = validation.sort("n_tokens").select(pairs.columns(validation)).to_dicts()
        size = self.trainer.args.per_device_train_batch_size
        for at in range(0, len(rows), size):
            yield self.trainer.data_collator(rows[at : at + size])

    def eval_loss(self) -> float | None:
        """Return the loss per trained token over all of validation.

        Of sums, not a mean of the batches' means: these would weigh a token by the batch that it happens to be in.
        """
        import torch

        if not self.batches:
            return None
        model, total, n_trained = self.trainer.model, 0.0, 0
        model.eval()
        one = torch.tensor(1, device=self.trainer.args.device)  # the trainer divides its sum by this
        with torch.no_grad():
            for batch in self.batches:
                inputs = self.trainer._prepare_inputs(dict(batch))
                with self.trainer.compute_loss_context_manager():
                    total += float(self.trainer.compute_loss(model, inputs, num_items_in_batch=one))
                n_trained += int((inputs["labels"][:, 1:] != NOT_TRAINED).sum())  # nothing predicts the first token
        model.train()
        return total / n_trained

    def record(self, step: int, steps: int, **losses: float | None) -> None:
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step, "train_loss": None, "eval_loss": None})
        self.records[-1].update(losses)
        shown = {key: value for key, value in losses.items() if value is not None}
        with self.progress.open("a") as file:
            file.write(json.dumps({"step": step, "steps": steps, "losses": shown}) + "\n")

    def train_loss(self, *, since: int) -> float | None:
        known = [(r["step"], r["train_loss"]) for r in self.records if r["train_loss"] is not None]
        late = [loss for step, loss in known if step > since] or [loss for _, loss in known[-1:]]
        return sum(late) / len(late) if late else None

    def callback(self) -> Any:
        from transformers import TrainerCallback

        meter = self

        class Callback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meter.record(0, state.max_steps, eval_loss=meter.eval_loss())

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if os.getppid() != meter.parent_pid:  # killed outright, it could not end its children
                    raise SystemExit("the process that started this training is gone")
                steps = state.max_steps
                control.should_log = control.should_log or state.global_step == steps  # else the curve ends before it
                if state.global_step < steps and state.global_step in {round(steps * part / 4) for part in (1, 2, 3)}:
                    meter.record(state.global_step, steps, eval_loss=meter.eval_loss())

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    meter.record(state.global_step, state.max_steps, train_loss=float(logs["loss"]))

            def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meter.record(state.global_step, state.max_steps, eval_loss=meter.eval_loss())

        return Callback()


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
