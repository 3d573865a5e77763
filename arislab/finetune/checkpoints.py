"""What is kept of a training while it runs: a kill costs minutes, and the adapter is the same.

A checkpoint is a folder `step-00000040` as transformers' trainer writes and reads it: the weights that are trained,
optimizer, schedule, random states. To these come the random state with which the epoch began, which gave the order of
the examples, and what the owner of the training remembers. It is written elsewhere, sealed, and renamed; the seal is
`complete.json`, written last:

    {"identity": "5f0c…", "step": 40, "sha256": {"adapter_model.safetensors": "9d1e…", "optimizer.pt": "77aa…"}}

Checkpoints of one training lie in a folder that is named by its identity, a digest of all that makes it what it is, so
that those of other rows, settings or versions are never found. Torch reads its files without running code from them.

This module does not know what is trained: it works on any trainer of transformers. Of several processes (`ranks`) the
first decides, seals and removes; each has random states of its own in a checkpoint.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from arislab.finetune.ranks import agreed, is_first, meet
from arislab.system import files

logger = logging.getLogger("arislab.finetune")

FOLDER = ".checkpoints"
"""In the folder of the adapters; hidden, and an adapter_config.json lies too deep in it to be taken for an adapter."""
_SEAL, _ENDED, _EPOCH, _KEPT, _DAYS = "complete.json", "ended", "epoch", 2, 30
_NOT_READ = (  # a pickle, a card, and the tokenizer, which the base has
    "training_args.bin",
    "README.md",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class Checkpoints:
    """The checkpoints of one training, and what its attempts took.

    Args:
        folder: Of this training alone.
        identity: A digest of all that its result depends on.
        steps: Write one after so many optimizer steps; 0 for no such rule.
        minutes: Write one after so many minutes, or after `steps`, whichever is first; 0 for no such rule. Of neither,
            none is written or read.
        began: When the process did, seconds since 1970; default now.
    """

    def __init__(self, folder: Path, identity: str, *, steps: int, minutes: float, began: float | None = None) -> None:
        self.folder, self.identity, self.steps, self.minutes = folder, identity, steps, minutes
        self.began = time.time() if began is None else began
        self.newest_step = 0
        """Of the newest checkpoint on disk; 0 without one."""
        self.resumed, self.seconds_before = 0, 0.0
        """Attempts, this one too, that went on from a checkpoint; what those before took up to their last step, s."""

    def train(
        self,
        trainer: Any,
        *,
        remember: Callable[[Path], None] = lambda _: None,
        recall: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """Train, from the newest checkpoint on if there is one that is whole.

        Args:
            trainer: Of transformers, new; its output_dir is on the disk of `folder`. It logs each step
                (logging_steps=1): what it sums up between two logs is not in a checkpoint.
            remember: Writes into the folder of a checkpoint what its owner needs to go on.
            recall: Reads that from a checkpoint, before the training goes on.

        Raises:
            OSError: A checkpoint cannot be written.
        """
        if not self.steps and not self.minutes:
            trainer.train()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = agreed(self.newest() if is_first() else None)
        self.newest_step = _step(checkpoint) if checkpoint else 0
        if is_first():
            self._begin_attempt()
        if checkpoint is not None:
            recall(checkpoint)
        trainer.add_callback(self._callback(trainer, checkpoint, remember))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def newest(self) -> Path | None:
        """Return the newest checkpoint that is whole; those after it are damaged, which is said, and removed."""
        for left in self.folder.glob(
            f".*{files.beside(self.folder).suffix}"
        ):  # half removed when the process was killed
            shutil.rmtree(left, ignore_errors=True)
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            wrong = self._wrong(path)
            if wrong is None:
                return path
            logger.warning("checkpoint %s is not used: %s", path.name, wrong)
            _remove(path)
        return None

    def _wrong(self, path: Path) -> str | None:
        """Say what keeps a checkpoint from being used, if anything does."""
        try:
            seal = json.loads((path / _SEAL).read_text())
            identity, digests = seal["identity"], dict(seal["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"its {_SEAL} is missing or damaged"
        if identity != self.identity:
            return "it is of another training"
        if strange := set(digests) ^ set(_names(path)):
            return f"{', '.join(sorted(strange))} missing, or not of it"
        changed = [name for name, digest in digests.items() if files.of_file(path / name)["sha256"] != digest]
        return f"{', '.join(changed)} changed since it was written" if changed else None

    def _begin_attempt(self) -> None:
        """Count earlier attempts, and begin this one: a file whose time is that of its last step."""
        earlier = sorted(self.folder.glob("attempt-*"))
        for path in earlier:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: what it took is not known
                attempt = json.loads(path.read_text())
                self.seconds_before += max(0.0, path.stat().st_mtime - attempt["began"])
                self.resumed += attempt["from_step"] > 0
        self.resumed += self.newest_step > 0
        self.attempt = self.folder / f"attempt-{len(earlier) + 1:06d}"
        files.replace(self.attempt, json.dumps({"began": self.began, "from_step": self.newest_step}))

    def _callback(self, trainer: Any, checkpoint: Path | None, remember: Callable[[Path], None]) -> Any:
        from transformers import TrainerCallback

        mine = self

        class Callback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.epoch, self.checkpoint = Path(args.output_dir) / _EPOCH, checkpoint
                self.step, self.at = state.global_step, time.monotonic()

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if self.checkpoint is not None:
                    # the order of the examples is drawn again; then the trainer skips those it has had
                    within = state.global_step and state.epoch % 1
                    trainer._load_rng_state(str(self.checkpoint / _EPOCH if within else self.checkpoint))
                    self.checkpoint = None
                trainer._save_rng_state(str(self.epoch))

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if is_first() and mine.attempt.exists():  # not once another process has published the same adapter
                    os.utime(mine.attempt)
                steps, minutes = state.global_step - self.step, (time.monotonic() - self.at) / 60
                is_due = agreed(0 < mine.steps <= steps or 0 < mine.minutes <= minutes)
                if is_due and state.global_step < state.max_steps and not control.should_training_stop:
                    control.should_save = True

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meet()  # to have written its random state
                if is_first():
                    part = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                    shutil.copytree(self.epoch, part / _EPOCH)
                    remember(part)
                    mine._seal(part, state.global_step)
                meet()
                self.step, self.at = state.global_step, time.monotonic()

        return Callback()

    def _seal(self, part: Path, step: int) -> None:
        """Make a checkpoint whole under its name, and keep the newest two."""
        for name in _NOT_READ:
            (part / name).unlink(missing_ok=True)
        digests = {name: files.of_file(part / name)["sha256"] for name in _names(part)}
        files.replace(part / _SEAL, json.dumps({"identity": self.identity, "step": step, "sha256": digests}))
        final = self.folder / f"step-{step:08d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            files.publish(part, final)
        except OSError:
            if not final.exists():
                raise
            shutil.rmtree(part)  # another process trains the same: it came to the same
        self.newest_step = step
        for old in sorted(self.folder.glob("step-*"))[:-_KEPT]:
            _remove(old)


def steps(folder: Path) -> list[int]:
    """Return the steps of which a training has checkpoints, in their order."""
    return sorted(map(_step, folder.glob("step-*")))


def mark(folder: Path, training: str) -> None:
    """Note that a training has ended; its checkpoints stay until ``settle``.

    Args:
        folder: Of its checkpoints; there is none where none were to be written.
        training: Its id in ``finetuning_runs``.
    """
    if folder.is_dir():
        files.replace(folder / _ENDED, training)


def settle(folder: Path, trainings: Collection[str]) -> None:
    """Remove the checkpoints of trainings that have ended.

    Args:
        folder: Of the adapters.
        trainings: Their ids, as in ``mark``.
    """
    for path in (folder / FOLDER).glob(f"*/{_ENDED}"):
        with contextlib.suppress(FileNotFoundError):  # another process that is done removes it
            if path.read_text() in trainings:
                discard(path.parent)


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training that is done, and those of others that nobody went on with for a month."""
    shutil.rmtree(folder, ignore_errors=True)
    for other in folder.parent.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process that is done removes it
            if time.time() - other.stat().st_mtime > _DAYS * 86_400:
                shutil.rmtree(other, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are on their way
        folder.parent.rmdir()


def _names(path: Path) -> list[str]:
    """Return the files of a checkpoint but for its seal, by their paths in it."""
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    return sorted(name for name in found if name != _SEAL)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _remove(path: Path) -> None:
    """Remove a folder; one that is removed in part bears its name no more."""
    part = files.beside(path)
    path.rename(part)
    shutil.rmtree(part, ignore_errors=True)
