"""What is trained on, and the numbers of the training: checked when they are made, recorded as hyperparameters."""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arislab.errors import ParameterError, closest
from arislab.finetune.ranks import VARIABLE

BFLOAT16 = "bf16-lora"
METHODS = ("lora", BFLOAT16, "qlora")
BACKENDS = ("auto", "trl", "unsloth")
_PLACES = ("base_model", "folder", "name", "chat_template_kwargs")  # recorded elsewhere than among the hyperparameters
_SAFETY = ("checkpoint_steps", "checkpoint_minutes", "until_settled")  # they change no weight
_WHOLE = {
    "r": (1, 512),  # vLLM serves no higher rank
    "lora_alpha": (1, 65_536),
    "batch_size": (1, 65_536),
    "gradient_accumulation_steps": (1, 65_536),
    "max_length": (1, 2**24),
    "early_stopping": (0, 1_000),
    "checkpoint_steps": (0, 10**9),
    "num_processes": (1, 1_024),
    "seed": (0, 2**32 - 1),
}


def _of_environment() -> Any:
    """Return how many processes this machine gives a training; what is no number is refused with the others."""
    given = os.environ.get(VARIABLE) or "1"
    return int(given) if given.isascii() and given.isdigit() else given


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How adapters are trained, all of one `train` alike.

    Raises:
        ParameterError: One is unknown or out of range.

    Example:
        >>> Settings(base_model="tiny", folder="models", r=16).numbers["r"]
        16
    """

    base_model: str | Path
    """A model folder, ``"tiny"``, or the name of a model in the local Hugging Face cache; nothing is downloaded."""
    folder: str | Path
    """Where the adapters' folders go."""
    name: str = "adapter"
    """An adapter's folder is called <name>-<arm>-<hash>."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    """What the chat template is rendered with, see `tokenize`."""
    method: str = "lora"
    """``"lora"``; ``"bf16-lora"``: the frozen base multiplied in bfloat16, as on a GPU always, on a CPU that can;
    ``"qlora"``: base in 4-bit NF4 by bitsandbytes."""
    backend: str = "auto"
    """``"trl"``, ``"unsloth"``, or ``"auto"``: unsloth where a GPU and unsloth are, else trl."""
    r: int = 8
    """Rank of the adapters, on all linear layers but the output head; vLLM serves up to 16 by default."""
    lora_alpha: int = 16
    """The update is scaled by lora_alpha / r."""
    seed: int = 0
    """Of the adapter's first weights and of the order of examples."""
    learning_rate: float = 2e-3
    """Its peak, after a warm-up over 3 % of the steps; then a cosine to 0. About ten times that of full training."""
    num_train_epochs: float = 3
    """Passes over each set."""
    max_length: int = 512
    """Tokens, prompt and answer together, at most the model's context; a longer example is not trained, never cut."""
    batch_size: int = 16
    """Examples per optimizer step. Another number is another training."""
    gradient_accumulation_steps: int = 1
    """Compute each batch in this many parts, for less memory; it divides batch_size. The result differs by rounding."""
    early_stopping: int = 0
    """Stop when the loss on `validation`, then scored at each tenth of the steps, was not lower than its lowest for so
    many scores, and keep the weights of the lowest; 0: train all steps, and keep the last."""
    checkpoint_steps: int = 0
    """Write a checkpoint after so many steps, from which a training that was killed goes on; 0: by time alone."""
    checkpoint_minutes: float = 5
    """Or after so many minutes, whichever is first; 0: by steps alone. With both 0 it starts anew."""
    num_processes: int = field(default_factory=_of_environment)
    """GPUs of each training, by `accelerate launch` (on a CPU: processes, to try it); default
    $ARISLAB_NUM_PROCESSES, or 1. It is another training: batches hold other rows, and the last batch of an epoch
    is filled up with rows that it had before."""
    until_settled: bool = False
    """Keep the checkpoints of a training that has ended until ``settle`` is called: whoever is killed before its row is
    written calls `train` again, and it goes on from the last one. For callers that do call ``settle``."""

    def __post_init__(self) -> None:
        for key, known in (("method", METHODS), ("backend", BACKENDS)):
            if getattr(self, key) not in known:
                value = getattr(self, key)
                raise ParameterError(f"{key} {value!r} is not known; {closest(str(value), known)}.")
        for key, (low, high) in _WHOLE.items():
            value = getattr(self, key)
            # True is an int, and would be a rank of 1
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ParameterError(f"{key} must be a whole number from {low}, got {value!r}; the most is {high:,}.")
        for key, most in (("learning_rate", 1), ("num_train_epochs", 100_000), ("checkpoint_minutes", 10_080)):
            value, may_be_off = getattr(self, key), key == "checkpoint_minutes"
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not (0 < value <= most or (may_be_off and value == 0)):
                least = "from 0" if may_be_off else "above 0"
                raise ParameterError(f"{key} must be a number {least}, got {value!r}; the most is {most:,}.")
        parts = self.gradient_accumulation_steps
        if self.batch_size % parts:  # the trainer is told the size of a part, not their number
            raise ParameterError(f"gradient_accumulation_steps must divide batch_size {self.batch_size}, got {parts}.")
        if (share := self.batch_size // parts) % self.num_processes:
            raise ParameterError(
                f"num_processes must divide the {share} examples that are computed at once (batch_size / "
                f"gradient_accumulation_steps), got {self.num_processes}; ${VARIABLE} sets it where no setting does."
            )
        check_name(self.name)

    @property
    def numbers(self) -> dict[str, Any]:
        """What changes the weights, as it is recorded; early_stopping and num_processes where they are not as usual."""
        usual = {"early_stopping": 0, "num_processes": 1}
        numbers = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {
            name: value
            for name, value in numbers.items()
            if name not in (*_PLACES, *_SAFETY) and (name not in usual or usual[name] != value)
        }

    @property
    def checkpoints(self) -> dict[str, float]:
        """When checkpoints are written: after so many steps or minutes."""
        return {"steps": self.checkpoint_steps, "minutes": self.checkpoint_minutes}


def check_name(part: str) -> None:
    """Refuse a part of a model name that is no name of a folder, or would need quotes in an URL.

    Raises:
        ParameterError: It holds other than letters, digits, dots, underscores and hyphens.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", part):
        raise ParameterError(f"{part!r} becomes part of a model name; use letters, digits, '.', '_' and '-'.")
