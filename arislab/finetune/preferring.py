"""The trainer of preferences: the losses of DPO, IPO and KTO over our ids and labels.

Not TRL's trainers: they render and tokenize by their own rules, and score every position on a CPU. Loss and gradients
are theirs, which a test says. The reference is the model before its first step (the adapter that is trained further, or
the base, to which a new adapter adds nothing), asked once about each answer. It was not run on a GPU.
"""

import random
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import PrinterCallback, Trainer, TrainingArguments

from arislab.finetune import pairs
from arislab.finetune.labels import NOT_TRAINED
from arislab.finetune.likelihood import log_probabilities
from arislab.finetune.on_cpu import speed_up
from arislab.finetune.settings import BFLOAT16
from arislab.finetune.trainer import common_arguments, load_model


def drawn(rows: pl.DataFrame, spec: dict[str, Any]) -> pl.DataFrame:
    """Return the rows as one arm learns from them, in the order of their ids.

    The control learns from the same answers, but chance says which are better: chosen and rejected of one half of the
    pairs change places, and verdicts are dealt out anew.
    """
    rows, dice = rows.sort("id"), random.Random(spec["settings"]["seed"])
    if spec["arm"] not in spec["preference"]["controls"]:
        return rows
    if "is_desirable" in rows.columns:
        dealt = rows["is_desirable"].to_list()
        dice.shuffle(dealt)
        return rows.with_columns(is_desirable=pl.Series(dealt))
    turned = pl.Series([False] * rows.height)
    turned[dice.sample(range(rows.height), rows.height // 2)] = True
    sides = (("input_ids", "other_ids"), ("labels", "other_labels"))
    return rows.with_columns(
        pl.when(turned).then(other if name == one else one).otherwise(name).alias(name)
        for one, other in sides
        for name in (one, other)
    )


def new_trainer(spec: dict[str, Any], tokenizer: Any, examples: pl.DataFrame, work: Path) -> Any:
    """Build the trainer over tokenized preferences; it computes what the reference says of them."""
    on_gpu, start = spec["device"] == "cuda", _start(spec)
    datasets.disable_progress_bars()
    model, peft_config = load_model(spec, on_gpu=on_gpu)
    if start is None:
        model = get_peft_model(model, peft_config)
    else:
        model = PeftModel.from_pretrained(model, start["path"], is_trainable=True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the reference would differ from the model by chance alone
    if on_gpu:
        model.enable_input_require_grads()  # for gradient checkpointing: the embedding is frozen
    arguments = TrainingArguments(
        **common_arguments(spec, examples.height, work), remove_unused_columns=False, label_names=["labels"]
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    preference = {**spec["preference"], **_weights(examples), "max_length": spec["settings"]["max_length"]}
    trainer = PreferenceTrainer(model, arguments, preference=preference, pad=pad)
    trainer.remove_callback(PrinterCallback)  # a line a step
    if not on_gpu:
        trainer.replaced = speed_up(trainer.model, bfloat16=spec["settings"]["method"] == BFLOAT16)
    rows = trainer.referenced(examples)
    read = rows.select(*pairs.columns(rows), length="n_tokens")
    trainer.train_dataset = datasets.Dataset.from_dict({name: read[name].to_list() for name in read.columns})
    return trainer


def recorded(spec: dict[str, Any], examples: pl.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a record says of preferences: among the hyperparameters, and beside them."""
    start = _start(spec)
    numbers = {name: spec["preference"][name] for name in ("loss", "beta")} | _weights(examples)
    is_control = spec["arm"] in spec["preference"]["controls"]
    numbers |= {"start_from": "base" if start is None else "sft", "is_control": is_control}
    # the adapter it starts from is another for each seed, and seeds are alike in all else
    return {"preference": numbers}, {"start": start and {"name": Path(start["path"]).name, "sha256": start["sha256"]}}


def _start(spec: dict[str, Any]) -> dict[str, str] | None:
    """Path and sha256 of the adapter that is trained further; None for a new one."""
    start: dict[str, str] | None = spec["preference"]["starts"][str(spec["settings"]["seed"])]
    return start


def _weights(examples: pl.DataFrame) -> dict[str, float]:
    """Return how much a desirable and an undesirable row count: all of a kind the same, as the paper of KTO asks."""
    if "is_desirable" not in examples.columns:
        return {}
    good = int(examples["is_desirable"].sum())
    bad = examples.height - good
    return {"desirable_weight": max(1.0, bad / max(good, 1)), "undesirable_weight": max(1.0, good / max(bad, 1))}


def with_mismatches(rows: pl.DataFrame, max_length: int) -> pl.DataFrame:
    """Put the next answer to another prompt that fits behind each prompt, else its own: for the KL term of KTO."""
    split = [(ids, labels.count(NOT_TRAINED)) for ids, labels in rows.select("input_ids", "labels").rows()]
    prompts, answers = [ids[:n] for ids, n in split], [ids[n:] for ids, n in split]
    others = []
    for at, prompt in enumerate(prompts):
        behind = (*range(at + 1, len(split)), *range(at))
        fits = (i for i in behind if prompts[i] != prompt and len(prompt) + len(answers[i]) <= max_length)
        answer = answers[next(fits, at)]
        others.append((prompt + answer, [NOT_TRAINED] * len(prompt) + answer))
    kind = pl.List(pl.Int32)
    ids, labels = (pl.Series([other[side] for other in others], dtype=kind) for side in (0, 1))
    return rows.with_columns(other_ids=ids, other_labels=labels)


class PreferenceTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Trains an adapter on batches whose first half are better answers (or single ones), and the others behind them."""

    def __init__(self, model: Any, args: Any, *, preference: dict[str, Any], pad: int) -> None:
        self.preference, self.pad = preference, pad
        super().__init__(model, args, data_collator=self.batch)
        self.model_accepts_loss_kwargs = True  # a loss that is divided by the rows of the whole step

    def batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the better answers of some rows and behind them the others, of one length."""
        sequences = [row["input_ids"] for row in rows] + [row["other_ids"] for row in rows]
        labels = [row["labels"] for row in rows] + [row["other_labels"] for row in rows]
        most = max(map(len, sequences))
        made = {
            "input_ids": torch.tensor([ids + [self.pad] * (most - len(ids)) for ids in sequences]),
            "targets": torch.tensor([ids + [NOT_TRAINED] * (most - len(ids)) for ids in labels]),
            # one for each row: by their number the sums of losses are divided
            "labels": torch.tensor([[NOT_TRAINED, 0]] * len(rows)),
        }
        if pairs.REFERENCES[0] in rows[0]:
            made["references"] = torch.tensor([row[name] for name in pairs.REFERENCES for row in rows])
        if "is_desirable" in rows[0]:
            made["is_desirable"] = torch.tensor([row["is_desirable"] for row in rows])
        return made

    def _said(self, inputs: dict[str, Any], of: slice = slice(None)) -> Any:
        """Return the log-probability of each answer, nats."""
        core = self.accelerator.unwrap_model(self.model).get_base_model()
        return log_probabilities(core, inputs["input_ids"][of], inputs["targets"][of]).sum(dim=1)

    def referenced(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add what the model as it is now says of each answer: columns reference and other_reference."""
        if "is_desirable" in rows.columns:
            rows = with_mismatches(rows, self.preference["max_length"])
        rows = rows.sort("n_tokens", "id")
        said: list[Any] = []
        self.model.eval()
        for part in rows.iter_slices(self.args.per_device_train_batch_size):
            inputs = self._prepare_inputs(self.batch(part.select(pairs.columns(part)).to_dicts()))
            with torch.no_grad(), self.compute_loss_context_manager():
                said += self._said(inputs).reshape(2, -1).t().tolist()
        columns = zip(pairs.REFERENCES, zip(*said, strict=True), strict=True)
        return rows.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns).sort("id")

    def _gained(self, inputs: dict[str, Any], of: slice = slice(None)) -> Any:
        """Return by how much answers have become likelier than they were to the reference, nats; of ipo per token."""
        gained = self._said(inputs, of) - inputs["references"][of]
        if self.preference["loss"] != "ipo":
            return gained
        return gained / (inputs["targets"][of] != NOT_TRAINED).sum(dim=1)  # as TRL and the authors of IPO have it

    def _margins(self, inputs: dict[str, Any]) -> Any:
        """Return by how much what is better gained more, or a single answer more than the KL term; less where bad."""
        n = len(inputs["labels"])
        if "is_desirable" not in inputs:
            better, worse = self._gained(inputs).chunk(2)
            return better - worse
        with torch.no_grad():
            kl = self._gained(inputs, slice(n, None)).mean().clamp(min=0)
        beyond = self._gained(inputs, slice(n)) - kl
        return torch.where(inputs["is_desirable"], beyond, -beyond)

    def _rows_losses(self, inputs: dict[str, Any]) -> Any:
        """Return the loss of each row.

        Source:
            DPO: Rafailov et al. 2023, eq. 7. IPO: Azar et al. 2023, eq. 17. KTO: Ethayarajh et al. 2024, eq. 8.
        """
        beta, margins = self.preference["beta"], self._margins(inputs)
        if self.preference["loss"] == "dpo":
            return -logsigmoid(beta * margins)
        if self.preference["loss"] == "ipo":
            return (margins - 1 / (2 * beta)) ** 2
        good, bad = self.preference["desirable_weight"], self.preference["undesirable_weight"]
        return torch.where(inputs["is_desirable"], good, bad) * (1 - torch.sigmoid(beta * margins))

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002  (transformers' signature)
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the mean loss, or its part of the mean over a step that is computed in parts."""
        losses = self._rows_losses(inputs)
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the trainer would count them anew at every step, for a number nobody reads."""
        return 0

    def measured(self, batches: list[dict[str, Any]]) -> dict[str, float]:
        """Return how rows that were not trained on are told apart now, as ``told_apart`` says; nothing without any."""
        parts, goods = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
        self.model.eval()
        for batch in batches:
            inputs, n = self._prepare_inputs(dict(batch)), len(batch["labels"])
            is_pairs = "is_desirable" not in batch
            with torch.no_grad(), self.compute_loss_context_manager():
                gained = self._gained(inputs, slice(None if is_pairs else n)).cpu()
            parts.append(gained[:n] - gained[n:] if is_pairs else gained)
            goods.append(torch.ones(n, dtype=torch.bool) if is_pairs else batch["is_desirable"])
        apart, good = torch.cat(parts).double(), torch.cat(goods)
        n = len(apart)
        if n and "is_desirable" in batches[0]:
            apart = (apart[good][:, None] - apart[~good][None]).flatten()
        if not len(apart):
            return {}
        right = (apart > 0).double() + (apart == 0).double() / 2
        return {"accuracy": float(right.mean()), "margin": float(apart.mean()), "n": n}
