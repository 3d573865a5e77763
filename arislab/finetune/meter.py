"""What is measured while a training runs: losses, pace, and when it learns no more."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from arislab.finetune import pairs
from arislab.finetune.labels import NOT_TRAINED
from arislab.finetune.ranks import agreed, count, is_first
from arislab.system.processes import gone

_POINTS = 40  # of the curve of the training's loss
_PAUSE_S = 0.5  # between two lines of progress


class Meter:
    """Records losses and progress, keeps the best weights if asked to, and stops when the parent has died.

    Args:
        trainer: That logs each step.
        validation: Tokenized examples that are scored at each quarter, or each tenth with `patience`; None for none.
        progress: File of lines for the parent.
        parent: The process whose end ends the training, see ``processes.identity``.
        n_trained_tokens: Of one pass over the examples.
        patience: Stop after so many scores without a lower one, and keep the weights of the lowest; 0: the last.
    """

    def __init__(
        self,
        trainer: Any,
        validation: pl.DataFrame | None,
        *,
        progress: Path,
        parent: dict[str, Any],
        n_trained_tokens: int,
        patience: int,
    ) -> None:
        self.trainer, self.progress, self.parent = trainer, progress, parent
        self.n_trained_tokens, self.patience, self.starter = n_trained_tokens, patience, os.getppid()
        self.records: list[dict[str, Any]] = []
        self.sum, self.n = 0.0, 0  # of the losses since the last point of the curve
        self.best: dict[str, Any] | None = None  # step and loss of the lowest score; later scores that were not lower
        self.weights: dict[str, Any] = {}  # of the best
        self.began, self.told = (0, 0.0, 0.0), 0.0  # step, time and epoch at which this attempt began; last progress
        self.batches = [] if validation is None else list(self._batches(validation))

    def _batches(self, validation: pl.DataFrame) -> Iterator[dict[str, Any]]:
        rows = validation.sort("n_tokens").select(pairs.columns(validation)).to_dicts()
        size = self.trainer.args.per_device_train_batch_size
        for at in range(0, len(rows), size):
            yield self.trainer.data_collator(rows[at : at + size])

    def score(self) -> float | None:
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
        # the trainer multiplies by the processes whose mean it will take; one says it, as all must come to the same end
        return float(agreed(total / count() / n_trained))

    @property
    def kept_step(self) -> int:
        """After which step the weights were as they are kept."""
        return self.best["step"] if self.best else int(self.trainer.state.global_step)

    @property
    def eval_loss(self) -> float | None:
        """Of the weights that are kept."""
        loss: float | None = self.best["loss"] if self.best else self.records[-1]["eval_loss"]
        return loss

    @property
    def outcome(self) -> dict[str, Any]:
        """Return which weights are kept, for the record: nothing where these are always the last."""
        if not self.best:
            return {}
        return {"early_stop": {"kept_step": self.best["step"], "last_step": int(self.trainer.state.global_step)}}

    def train_loss(self, *, since: int) -> float | None:
        """Return the mean loss of the points of the curve after a step, up to that of the weights that are kept."""
        points = [
            (point["step"], point["train_loss"])
            for point in self.records
            if point["train_loss"] is not None and point["step"] <= self.kept_step
        ]
        late = [loss for step, loss in points if step > since] or [loss for _, loss in points[-1:]]
        return sum(late) / len(late) if late else None

    def _record(self, step: int, **losses: float | None) -> None:
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step, "train_loss": None, "eval_loss": None})
        self.records[-1].update(losses)

    def _evaluate(self, step: int) -> bool:
        """Score, and say whether to stop."""
        self._record(step, eval_loss=(loss := self.score()))
        if not self.patience or loss is None or step == 0:
            return False
        if self.best is None or loss < self.best["loss"]:
            self.best = {"step": step, "loss": loss, "later": 0}
            self.weights = {name: value.detach().cpu().clone() for name, value in self._trained()}
        else:
            self.best["later"] += 1
        return bool(self.best["later"] >= self.patience)

    def _trained(self) -> list[tuple[str, Any]]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return [(name, value) for name, value in model.named_parameters() if value.requires_grad]

    def _take(self, weights: dict[str, Any]) -> None:
        import torch

        with torch.no_grad():
            for name, value in self._trained():
                value.copy_(weights[name])

    @property
    def _sharing(self) -> Any:
        return getattr(self.trainer, "sharing", None)

    def remember(self, folder: Path) -> None:
        """Write into a checkpoint what goes on with it."""
        from safetensors.torch import save_file

        state = {name: getattr(self, name) for name in ("records", "sum", "n", "best")}
        # found out once, on one batch; another one, or one with dropout, might have it otherwise
        found = {"agrees": getattr(self.trainer, "agrees", None), "shares": getattr(self._sharing, "is_right", None)}
        (folder / "meter.json").write_text(json.dumps({**state, **found}))
        if self.weights:
            save_file(self.weights, folder / "best.safetensors")

    def recall(self, folder: Path) -> None:
        """Read that from a checkpoint."""
        from safetensors.torch import load_file

        state = json.loads((folder / "meter.json").read_text())
        self.trainer.agrees, shares = state.pop("agrees"), state.pop("shares")
        if self._sharing is not None:
            self._sharing.is_right = shares
        vars(self).update(state)
        self.weights = load_file(folder / "best.safetensors") if self.best else {}

    def tell(self) -> None:
        """Append a line for the parent: where the training is, and how fast."""
        if not is_first():
            return
        state, now = self.trainer.state, time.monotonic()
        done, took = state.global_step - self.began[0], now - self.began[1]
        tokens = ((state.epoch or 0) - self.began[2]) * self.n_trained_tokens
        losses = {key: value for point in self.records for key, value in point.items() if value is not None}
        line = {
            "step": state.global_step,
            "steps": state.max_steps,
            "losses": {key: losses[key] for key in ("train_loss", "eval_loss") if key in losses},
            "tokens_per_s": round(tokens / took, 1) if done else None,
            "left_s": round(took / done * (state.max_steps - state.global_step)) if done else None,
        }
        with self.progress.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.told = now

    def _log(self, loss: float, *, is_last: bool) -> None:
        """Take the loss of a step; one in about forty steps is a point of the curve, their mean since the last."""
        import numpy as np

        step, steps = self.trainer.state.global_step, self.trainer.state.max_steps
        self.sum, self.n = float(np.float32(self.sum) + np.float32(loss)), self.n + 1  # added as the trainer does
        is_point = is_last or step == steps or step % max(1, steps // _POINTS) == 0
        if is_point:
            self._record(step, train_loss=self.sum / self.n)
            self.sum, self.n = 0.0, 0
        if is_point or time.monotonic() - self.told > _PAUSE_S:
            self.tell()

    def callback(self) -> Any:
        """Return what the trainer calls."""
        from transformers import TrainerCallback

        meter = self

        class Callback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if not state.global_step:
                    meter._evaluate(0)
                meter.began = (state.global_step, time.monotonic(), float(state.epoch or 0))
                meter.tell()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                # killed outright, they could not end this one
                if gone(meter.parent) or os.getppid() != meter.starter:
                    raise SystemExit("the process that started this training is gone")
                step, steps, parts = state.global_step, state.max_steps, 10 if meter.patience else 4
                is_due = step < steps and step in {round(steps * part / parts) for part in range(1, parts)}
                if is_due and meter._evaluate(step):
                    control.should_training_stop = True

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    meter._log(logs["loss"], is_last=control.should_training_stop)

            def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if meter.records[-1]["step"] < state.global_step or meter.records[-1]["eval_loss"] is None:
                    meter._evaluate(state.global_step)
                if meter.best:
                    meter._take(meter.weights)
                meter.tell()

        return Callback()
