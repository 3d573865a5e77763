"""Any causal language model that transformers knows, with the interface of ``llama.Llama``.

Slower than our own layers, which know Llama alone: this is how Gemma, Qwen, Phi, Mistral and others answer in this
process. Adapters are applied by peft beside the weights, which all models share.
"""

import copy
import inspect
import itertools
from pathlib import Path
from typing import Any

import torch

from arislab.errors import PrerequisiteError
from arislab.system.imports import require
from arislab.tiny.weights import other_base, read_adapter

_ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers whose rows may be padded."""

_CACHES = ("cache", "past_key_values", "cache_params")
"""Names of what keys and values are given as: of transformers now, before, and of models with another state."""

_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names of the tokens that a model can hold; some know no bound (ALiBi, models of states)."""
UNBOUNDED = 8192
"""Tokens that such a model is given at most."""


class CausalLM:
    """One model, as it is or with an adapter.

    Args:
        folder: With config.json and safetensors; nothing is fetched, and no code in it is run.
        bfloat16: Compute in bfloat16; else float32.

    Raises:
        PrerequisiteError: transformers or peft is not installed, or does not know the model.
    """

    def __init__(self, folder: Path, *, bfloat16: bool = False) -> None:
        require("a model that is no Llama, in this process", 'pip install "arislab[train]"', "transformers", "peft")
        import transformers

        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.bfloat16 if bfloat16 else torch.float32, local_files_only=True
            )
        except (ValueError, KeyError, OSError, ImportError) as error:
            raise PrerequisiteError(
                f"transformers {transformers.__version__} cannot load the model in {folder} "
                f"({' '.join(str(error).split())[:300]}); a newer version may, or serve it with vLLM and give its URL"
            ) from error
        self.about = f"{model.config.model_type} layers of transformers {transformers.__version__}"
        self._model, self._adapter, self._numbers = model.eval(), "", itertools.count(1)
        self._shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        self.context = next((n for name in _CONTEXTS if (n := getattr(config, name, None))), UNBOUNDED)
        n_heads = getattr(config, "num_attention_heads", None) or 1  # a model of states alone has none
        n_kept = getattr(config, "num_key_value_heads", None) or n_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        self._bytes_per_token = 2 * (2 if bfloat16 else 4) * config.num_hidden_layers * n_kept * width
        # a padded row behind a shared prefix would see less of a sliding window than alone; what has a state of its own
        # per row may take padding for text
        is_stateful = getattr(model, "_is_stateful", False) or not kinds <= _ATTENTION
        self.shares_prefix = not is_stateful and kinds == {"full_attention"} and not _slides(config)
        self.most_rows = 1 if is_stateful else 128
        takes = inspect.signature(model.forward).parameters
        self._takes_positions, self._takes_last = "position_ids" in takes, "logits_to_keep" in takes
        self._cache = next(name for name in _CACHES if name in takes)
        self._prefix: tuple[list[int], Any] | None = None

    def adapted(self, folder: Path) -> "CausalLM":
        """Return the model with the LoRA adapter of a folder beside the weights, which both share.

        Raises:
            PrerequisiteError: It is no plain LoRA, or belongs to another model.
        """
        import peft

        # before peft changes anything: what it cannot load whole it leaves half loaded
        for matrix, (down, up, _) in read_adapter(folder).items():
            if self._shapes.get(matrix) != (up.shape[0], down.shape[1]):
                raise other_base(matrix)
        name = f"adapter{next(self._numbers)}"  # the folder's own may have a dot, which names of modules may not
        if isinstance(self._model, peft.PeftModel):
            self._model.load_adapter(folder, adapter_name=name)
        else:
            self._model = peft.PeftModel.from_pretrained(self._model, folder, adapter_name=name).eval()
        other = copy.copy(self)
        other._adapter, other._prefix = name, None
        return other

    def forget(self) -> None:
        """Take the adapter out of memory; another one is there."""
        self._model.set_adapter([*self._model.peft_config][-1], inference_mode=True)  # peft warns of an active one
        self._model.delete_adapter(self._adapter)

    def bytes_of(self, n_tokens: int, n_prefix: int) -> int:
        """Return the memory of a row's keys and values; each row has a prefix of its own."""
        return self._bytes_per_token * (n_tokens + n_prefix)

    def prefill(self, tokens: list[int]) -> Any:
        """Return the cache of a common prefix, see ``sampling.Layers``; the last one is kept."""
        if not tokens:
            return None
        if self._prefix is None or self._prefix[0] != tokens:
            self._prefix = None
            self._activate()
            ids = torch.tensor([tokens])
            cache = self._forward(ids, torch.ones_like(ids), torch.arange(len(tokens))[None], None)[1]
            self._prefix = (list(tokens), cache)
        return self._prefix[1]

    def start(
        self, tokens: torch.Tensor, padding: torch.Tensor, prefix: Any, n_prefix: int
    ) -> tuple["_Batch", torch.Tensor]:
        """Read the prompts of a batch, see ``sampling.Layers``."""
        self._activate()
        there = (padding == 0).long()
        mask = torch.cat([torch.ones(len(tokens), n_prefix, dtype=torch.long), there], 1)
        positions = (there.cumsum(1) - 1).clamp(min=0) + n_prefix
        cache = None
        if prefix is not None:
            cache = copy.deepcopy(prefix)
            cache.batch_repeat_interleave(len(tokens))
        logits, cache = self._forward(tokens, mask, positions, cache)
        return _Batch(self, cache, mask, positions[:, -1:]), logits

    def _activate(self) -> None:
        """Have the shared weights compute with this model's adapter, or with none."""
        if self._adapter:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._adapter, inference_mode=True)
        elif hasattr(self._model, "peft_config"):
            self._model.base_model.disable_adapter_layers()

    def _forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """The logits after the last token of each row, in float32, and the cache with these tokens."""
        wanted: dict[str, Any] = {self._cache: cache, "use_cache": True}
        wanted |= {"position_ids": positions} if self._takes_positions else {}
        wanted |= {"logits_to_keep": 1} if self._takes_last else {}
        wanted |= {"attention_mask": mask} if self.most_rows > 1 else {}  # one row has no padding, and a state no mask
        out = self._model(tokens, **wanted)
        return out.logits[:, -1].float(), out[self._cache]


class _Batch:
    """The cache of rows that are being written, see ``sampling.Batch``."""

    def __init__(self, model: CausalLM, cache: Any, mask: torch.Tensor, positions: torch.Tensor) -> None:
        self._model, self._cache, self._mask, self._positions = model, cache, mask, positions

    def keep(self, rows: torch.Tensor) -> None:
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        self._cache.batch_select_indices(rows)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._positions = self._positions + 1
        logits, self._cache = self._model._forward(tokens[:, None], self._mask, self._positions, self._cache)
        return logits


def _slides(config: Any) -> bool:
    """Whether any layer sees a window only, in a configuration that names no kinds of layers."""
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
