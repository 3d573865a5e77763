"""The process that trains one adapter: `python -m arislab.finetune.worker SPEC.json`, started by `arislab.finetune.train`.

Beside the spec it finds examples.parquet and, if losses are to be measured, validation.parquet; it appends to
progress.jsonl, writes result.json (the row that `train` returns) or refused.txt (what the user must change), and moves
the adapter to its place as its last act.

What it does not know: nothing here was run on a GPU (`on_gpu`); Unsloth was run on a CPU only. A run that was killed
starts again.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import TrainingError
from arislab.finetune.labels import count_statuses, load_tokenizer, tokenize
from arislab.tiny.decoder import MODEL_DIR

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


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
        torch.set_num_threads(1)
    transformers.set_seed(settings["seed"])  # the adapter's first weights; the trainer seeds the order of examples
    tokenizer = load_tokenizer(base)
    examples, rows, left_out = _usable(work / "examples.parquet", tokenizer, spec)
    validation = None
    if (work / "validation.parquet").exists():
        validation, *_ = _usable(work / "validation.parquet", tokenizer, spec)
    trainer = _trainer(spec, tokenizer, examples, work)
    meter = _Meter(trainer, validation, work / "progress.jsonl", spec["parent_pid"])
    trainer.add_callback(meter.callback())
    trainer.train()

    stops = sorted({labels[-1] for labels in examples["labels"].to_list()})
    hyperparameters = {
        **settings,
        "target_modules": "all-linear",
        "lora_dropout": 0.0,
        "optim": str(getattr(trainer.args.optim, "value", trainer.args.optim)),
        "lr_scheduler_type": "cosine",
        "warmup_steps": int(trainer.args.warmup_steps),
        "steps": trainer.state.max_steps,
        "stop_tokens": tokenizer.convert_ids_to_tokens(stops),
        "chat_template_kwargs": spec["chat_template_kwargs"],
        "system_role": spec["system_role"],
        "rows": rows,
        "versions": _versions(settings["backend"], settings["method"]),
    }
    manifest = {
        "name": spec["name"],
        "arm": spec["arm"],
        "base": base_fingerprint(base),
        "data_sha256": _data_sha256(examples),
        "validation_sha256": None if validation is None else _data_sha256(validation),
        "hyperparameters": hyperparameters,
    }
    path, adapter_sha256 = _write_adapter(trainer, base, Path(spec["folder"]), manifest, work / "adapter")
    last_epoch = trainer.state.max_steps - math.ceil(trainer.state.max_steps / settings["num_train_epochs"])
    return {
        "id": "ft-" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16],
        "name": spec["name"],
        "arm": spec["arm"],
        "base_model": manifest["base"]["name"],
        "method": settings["method"],
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


def _usable(path: Path, tokenizer: Any, spec: dict[str, Any]) -> tuple[pl.DataFrame, dict[str, int], dict[str, str]]:
    """Return the rows that can be trained on, the count of all rows by status, and the status of each of the others."""
    settings = spec["settings"]
    tokenized = tokenize(
        pl.read_parquet(path),
        tokenizer,
        max_length=settings["max_length"],
        chat_template_kwargs=spec["chat_template_kwargs"],
    )
    counts = count_statuses(tokenized)
    usable = tokenized.filter(pl.col("status") == "ok")
    if usable.is_empty():
        reasons = tokenized["reason"].drop_nulls().unique(maintain_order=True).head(3).to_list()
        raise TrainingError(
            f"none of the {tokenized.height} {path.stem} of arm {spec['arm']!r} can be used: {counts}; first reasons: {reasons}"
        )
    others = tokenized.filter(pl.col("status") != "ok")
    return usable, counts, dict(others.select("id", "status").iter_rows())


def _trainer(spec: dict[str, Any], tokenizer: Any, examples: pl.DataFrame, work: Path) -> Any:
    """Build the SFTTrainer over our ids and labels."""
    import datasets

    settings, on_gpu = spec["settings"], spec["device"] == "cuda"
    datasets.disable_progress_bars()
    model, peft_config = _model(spec, on_gpu=on_gpu)
    from trl import SFTConfig, SFTTrainer

    parts = settings["gradient_accumulation_steps"]
    steps = math.ceil(math.ceil(examples.height / settings["batch_size"]) * settings["num_train_epochs"])
    arguments = SFTConfig(
        output_dir=str(work / "trainer"),
        per_device_train_batch_size=settings["batch_size"] // parts,
        gradient_accumulation_steps=parts,
        num_train_epochs=settings["num_train_epochs"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(0.03 * steps)),
        weight_decay=0.0,
        seed=settings["seed"],
        logging_steps=max(1, steps // 40),
        max_length=None,  # rows are whole or refused before this; the trainer must not cut
        packing=False,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        fp16=False,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
    )
    # on a GPU the trainer's own fused loss is faster; without Triton it scores masked positions too
    trainer_class = _supervised_trainer(SFTTrainer) if not on_gpu and settings["backend"] == "trl" else SFTTrainer
    rows = {column: examples[column].to_list() for column in ("input_ids", "labels")}
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    if not on_gpu and settings["backend"] == "trl":
        speed_up_lora(trainer.model)
    return trainer


def speed_up_lora(model: Any) -> None:
    """Compute the LoRA layers of a model that trains on a CPU in fewer passes: about a third less time, the same sums.

    Per layer y = x W' + s (x A') B'. Autograd multiplies B's gradient as (out x rows) @ (rows x r), nine times slower
    here than (r x rows) @ (rows x out), and makes separate passes for the scale and the sums.
    """
    import torch
    from peft.tuners.lora.layer import Linear

    class Lora(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
            rows = x.reshape(-1, x.shape[-1])
            low, scaled = rows @ a.t(), (b * scale).t().contiguous()
            out = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
            ctx.save_for_backward(rows, weight, a, low, scaled)
            ctx.scale = scale
            return out.addmm_(low, scaled).view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            rows, weight, a, low, scaled = ctx.saved_tensors
            flat = grad.reshape(-1, grad.shape[-1])
            grad_low = flat @ scaled.t()
            grad_a, grad_b = grad_low.t() @ rows, (low.t() @ flat).t() * ctx.scale
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = (flat @ weight).addmm_(grad_low, a).view(*grad.shape[:-1], -1)
            return grad_x, None, None, grad_a, grad_b, None

    def forward(layer: Any, x: Any) -> Any:
        base, (name,) = layer.base_layer, layer.active_adapters
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return Lora.apply(x, base.weight, base.bias, a, b, layer.scaling[name])

    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear:
            module.forward = functools.partial(forward, module)


def _model(spec: dict[str, Any], *, on_gpu: bool) -> tuple[Any, Any]:
    """Load the base model: (model, LoRA configuration), or (model with its adapter, None) from Unsloth."""
    settings = spec["settings"]
    import torch

    dtype = torch.bfloat16 if on_gpu else torch.float32
    if settings["backend"] == "unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            spec["base_model"],
            max_seq_length=settings["max_length"],
            dtype=dtype,
            load_in_4bit=settings["method"] == "qlora",
        )
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = FastLanguageModel.get_peft_model(
            model,
            r=settings["r"],
            lora_alpha=settings["lora_alpha"],
            target_modules=targets,
            lora_dropout=0,
            bias="none",
            random_state=settings["seed"],
            use_gradient_checkpointing="unsloth" if on_gpu else False,
        )
        return model, None
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = None
    if settings["method"] == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    model = AutoModelForCausalLM.from_pretrained(spec["base_model"], dtype=dtype, quantization_config=quantization)
    if quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=on_gpu)
    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return model, config


def _supervised_trainer(base: Any) -> Any:
    """Return an SFTTrainer whose loss computes the output head at trained positions only.

    The loss is the same: masked positions count nothing. The first batch is computed both ways; if they differ (a model
    that scales or caps its logits), training goes on with the trainer's own loss.
    """
    import torch

    class SupervisedTrainer(base):  # type: ignore[misc]  # trl is not typed
        agrees: bool | None = None

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,  # noqa: FBT001, FBT002  (transformers' signature)
            num_items_in_batch: Any = None,
        ) -> Any:
            if return_outputs or self.agrees is False:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss = self.supervised_loss(model, inputs, num_items_in_batch)
            if self.agrees is None:
                with torch.no_grad():
                    reference = super().compute_loss(model, dict(inputs), False, num_items_in_batch)
                self.agrees = bool(torch.isclose(loss.detach(), reference, rtol=1e-3))
                print(f"loss at trained positions {loss.item():.6f}, of the trainer {reference.item():.6f}")  # noqa: T201
                if not self.agrees:
                    return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return loss

        def floating_point_ops(self, inputs: Any) -> int:
            return (
                0  # the trainer would count the model's parameters anew at every step, for a number that nobody reads
            )

        def supervised_loss(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            core = self.accelerator.unwrap_model(model).get_base_model()
            hidden = core.get_decoder()(input_ids=inputs["input_ids"], use_cache=False)[0]
            wanted = inputs["labels"][:, 1:]
            trained = wanted != -100
            logits = core.get_output_embeddings()(hidden[:, :-1][trained])
            total = torch.nn.functional.cross_entropy(logits.float(), wanted[trained], reduction="sum")
            return total / (trained.sum() if num_items_in_batch is None else num_items_in_batch)

    return SupervisedTrainer


class _Meter:
    """Records losses and progress, and stops when the parent has died."""

    def __init__(self, trainer: Any, validation: pl.DataFrame | None, progress: Path, parent_pid: int) -> None:
        self.trainer, self.progress, self.parent_pid = trainer, progress, parent_pid
        self.records: list[dict[str, Any]] = []
        self.batches = [] if validation is None else list(self._batches(validation))

    def _batches(self, validation: pl.DataFrame) -> Iterator[dict[str, Any]]:
        rows = validation.sort("n_tokens").select("input_ids", "labels").to_dicts()
        size = self.trainer.args.per_device_train_batch_size
        for at in range(0, len(rows), size):
            yield self.trainer.data_collator(rows[at : at + size])

    def eval_loss(self) -> float | None:
        """Return the loss per trained token over all of validation, whatever the batches are."""
        import torch

        if not self.batches:
            return None
        model, total, n_trained = self.trainer.model, 0.0, 0
        model.eval()
        one = torch.tensor(1, device=self.trainer.args.device)
        with torch.no_grad():
            for batch in self.batches:
                inputs = self.trainer._prepare_inputs(dict(batch))
                with self.trainer.compute_loss_context_manager():
                    total += float(self.trainer.compute_loss(model, inputs, num_items_in_batch=one))
                n_trained += int((inputs["labels"][:, 1:] != -100).sum())
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
                if os.getppid() != meter.parent_pid:
                    raise SystemExit("the process that started this training is gone")
                steps = state.max_steps
                control.should_log = control.should_log or state.global_step == steps
                if state.global_step < steps and state.global_step in {round(steps * part / 4) for part in (1, 2, 3)}:
                    meter.record(state.global_step, steps, eval_loss=meter.eval_loss())

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    meter.record(state.global_step, state.max_steps, train_loss=float(logs["loss"]))

            def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meter.record(state.global_step, state.max_steps, eval_loss=meter.eval_loss())

        return Callback()


# The adapter folder


def _write_adapter(trainer: Any, base: Path, folder: Path, manifest: dict[str, Any], staging: Path) -> tuple[Path, str]:
    """Write the adapter into `staging`, then rename it to the name its content gives it."""
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(staging, safe_serialization=True)
    config = json.loads((staging / "adapter_config.json").read_text())
    # an absolute path would break when the folder moves, and the wrong base of the same shape loads without a word
    config["base_model_name_or_path"] = f"{manifest['base']['name']}@sha256:{manifest['base']['sha256'][:12]}"
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    (staging / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, staging / name)
    kept = {"adapter_config.json", "adapter_model.safetensors", *TOKENIZER_FILES}
    for path in staging.iterdir():  # a model card that points nowhere, pickled arguments
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (staging / "adapter_model.safetensors").chmod(0o644)  # a server may run as another user
    files = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
    sha256 = files["adapter_model.safetensors"]
    (staging / "manifest.json").write_text(json.dumps({**manifest, "files": files}, indent=2, sort_keys=True) + "\n")
    final = folder / f"{manifest['name']}-{manifest['arm']}-{sha256[:12]}"
    try:
        staging.rename(final)
    except OSError:  # the name is taken, by the same content or by somebody's edit of it
        changed = [
            name for name, digest in files.items() if not (final / name).exists() or _sha256(final / name) != digest
        ]
        if changed:
            raise TrainingError(
                f"{final} exists and its {', '.join(changed)} differ from what was trained now; adapters never change, so move it away."
            ) from None
    return final, sha256


def base_fingerprint(base: Path) -> dict[str, str]:
    """Return name and digest of a base model: the digest of its weights file, or of the list of their digests."""
    digests = [_sha256(path) for path in sorted(base.glob("*.safetensors")) or sorted(base.glob("*.bin"))]
    if not digests:
        raise TrainingError(
            f"{base} holds no weights; a base model has *.safetensors (or *.bin) beside its config.json."
        )
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    shipped = base.resolve() == MODEL_DIR.resolve()
    # a snapshot folder of the Hugging Face cache is models--<owner>--<name>/snapshots/<commit>
    cached = (
        base.parent.parent.name.removeprefix("models--").replace("--", "/") if base.parent.name == "snapshots" else None
    )
    return {"name": f"arislab-tiny-{sha256[:8]}" if shipped else cached or base.resolve().name, "sha256": sha256}


def _data_sha256(tokenized: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for row in tokenized.select("input_ids", "labels").iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _versions(backend: str, method: str) -> dict[str, str]:
    names = ["arislab", "torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "safetensors"]
    names += ["unsloth"] * (backend == "unsloth") + ["bitsandbytes"] * (method == "qlora")
    return {name: importlib.metadata.version(name) for name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
