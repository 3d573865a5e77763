"""The trainer of one adapter: TRL over our ids and labels; on a CPU the same sums in fewer passes."""

import math
import os
from pathlib import Path
from typing import Any

import polars as pl

from arislab.finetune.labels import NOT_TRAINED
from arislab.finetune.settings import BFLOAT16


def new_trainer(spec: dict[str, Any], tokenizer: Any, examples: pl.DataFrame, work: Path) -> Any:
    """Build the SFTTrainer over our ids and labels."""
    import datasets

    settings, on_gpu = spec["settings"], spec["device"] == "cuda"
    datasets.disable_progress_bars()
    model, peft_config = load_model(spec, on_gpu=on_gpu)
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **common_arguments(spec, examples.height, work),
        max_length=None,  # rows are whole or refused before this; the trainer must not cut
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # it would render, mask and cut once more, by its own rules
    )
    # on a GPU the trainer's own fused loss is faster; without Triton it scores masked positions too
    n_processes = settings.get("num_processes", 1)
    # and ours goes past the model that sums up the gradients of several processes
    is_ours = not on_gpu and settings["backend"] == "trl" and n_processes == 1
    trainer_class = _supervised_trainer(SFTTrainer) if is_ours else SFTTrainer
    rows = {column: examples[column].to_list() for column in ("input_ids", "labels")}
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    if is_ours:
        from arislab.finetune import on_cpu, shared_prefix  # torch and transformers, which Unsloth must come before

        is_bfloat16, is_small = settings["method"] == BFLOAT16, on_cpu.is_small(trainer.model)
        core, trainer.replaced = trainer.model.get_base_model(), on_cpu.speed_up(trainer.model, bfloat16=is_bfloat16)
        if _caps_logits(core.config):
            trainer.agrees = False  # of a model that knows little yet, they are too small for a cap to be seen
        if not is_small:
            trainer.sharing = shared_prefix.SharedPrefix(core, tolerance=2e-2 if is_bfloat16 else 1e-4)
    trainer.remove_callback(PrinterCallback)  # a line a step
    return trainer


def common_arguments(spec: dict[str, Any], n_examples: int, work: Path) -> dict[str, Any]:
    """Return the arguments of any trainer of an adapter."""
    settings, on_gpu = spec["settings"], spec["device"] == "cuda"
    parts, n_processes = settings["gradient_accumulation_steps"], settings.get("num_processes", 1)
    steps = math.ceil(math.ceil(n_examples / settings["batch_size"]) * settings["num_train_epochs"])
    return {
        "output_dir": str(work / "trainer"),
        "per_device_train_batch_size": settings["batch_size"] // parts // n_processes,
        "gradient_accumulation_steps": parts,
        "num_train_epochs": settings["num_train_epochs"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, round(0.03 * steps)),
        "weight_decay": 0.0,
        "seed": settings["seed"],
        "logging_steps": 1,  # what it sums up between two logs would not be in a checkpoint
        "train_sampling_strategy": "group_by_length",  # batches of like lengths: little of them is padding
        "save_strategy": "no",  # checkpoints are written by a rule of their own, the adapter once, at the end
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "fp16": False,
        "gradient_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "ddp_find_unused_parameters": False if n_processes > 1 else None,  # each step uses all of an adapter
    }


def load_model(spec: dict[str, Any], *, on_gpu: bool) -> tuple[Any, Any]:
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
        # by name, as Unsloth patches them; the same that all-linear finds in models of this kind
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
    # quantized weights stay where they are loaded
    place = None if quantization is None or not on_gpu else {"": int(os.environ.get("LOCAL_RANK", "0"))}
    model = AutoModelForCausalLM.from_pretrained(
        spec["base_model"], dtype=dtype, quantization_config=quantization, device_map=place
    )
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


def _caps_logits(config: Any) -> bool:
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return any(getattr(config.get_text_config(), name, None) for name in names)


def sums(trainer: Any) -> dict[str, Any]:
    """Return what of a larger model was computed otherwise than its trainer does, for the record; nothing of others.

    Other sums round otherwise: with them, the same rows and settings are another training.
    """
    replaced, sharing = getattr(trainer, "replaced", {}), getattr(trainer, "sharing", None)
    if sharing is not None:
        replaced = {**replaced, "head_where_trained": trainer.agrees, "shared_prefix": bool(sharing.is_right)}
    return {"sums": replaced} if sharing is not None or replaced.get("norms") else {}


def _supervised_trainer(base: Any) -> Any:
    """Return an SFTTrainer whose loss computes the output head at trained positions only.

    The loss is the same: masked positions count nothing. The first row is computed both ways; if they differ (a model
    that scales or caps its logits), training goes on with the trainer's own loss.
    """
    import torch

    class SupervisedTrainer(base):  # type: ignore[misc]  # trl is not typed
        agrees: bool | None = None
        sharing: Any = None  # reads once what the rows of a batch begin with
        replaced: dict[str, int]  # layers and norms that are computed in fewer passes

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,  # noqa: FBT001, FBT002  (transformers' signature)
            num_items_in_batch: Any = None,
        ) -> Any:
            if return_outputs or self.agrees is False:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if self.agrees is None:
                self.agrees = self._agrees(model, inputs, num_items_in_batch)
                return self.compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return self.supervised_loss(model, inputs, num_items_in_batch)

        def _agrees(self, model: Any, inputs: Any, num_items_in_batch: Any) -> bool:
            # one row: the trainer computes the head at all positions, which is most of the memory of a large vocabulary
            row = {name: value[:1] for name, value in inputs.items()}
            with torch.no_grad():
                ours = self.supervised_loss(model, row, num_items_in_batch)
                theirs = super().compute_loss(model, dict(row), False, num_items_in_batch)
            print(f"loss at trained positions {ours.item():.6f}, of the trainer {theirs.item():.6f}")  # noqa: T201
            return bool(torch.isclose(ours, theirs, rtol=1e-3))

        def floating_point_ops(self, inputs: Any) -> int:
            return 0  # the trainer would count the model's parameters anew at every step, for a number nobody reads

        def supervised_loss(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            core = self.accelerator.unwrap_model(model).get_base_model()
            input_ids, labels = inputs["input_ids"], inputs["labels"]
            if shared := self.sharing.length(input_ids, labels) if self.sharing else 0:
                hidden = self.sharing.hidden(input_ids, shared)
            else:
                hidden = core.get_decoder()(input_ids=input_ids, use_cache=False)[0]
            wanted = labels[:, shared + 1 :]  # each position predicts the next token
            trained = wanted != NOT_TRAINED
            # the head is vocabulary x positions, and most positions are prompt: it is the larger part of a step
            logits = core.get_output_embeddings()(hidden[:, :-1][trained])
            total = torch.nn.functional.cross_entropy(logits.float(), wanted[trained], reduction="sum")
            return total / (trained.sum() if num_items_in_batch is None else num_items_in_batch)

    return SupervisedTrainer
