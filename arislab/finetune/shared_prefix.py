"""What all rows of a batch begin with is read once: instructions are often half of a prompt.

A batch of rows [rows, n] whose first p tokens are equal becomes one row [1, p + rows (n - p)]: the common part, then
the rest of each row, at the positions that they had. All layers but attention look at one token alone; in attention
the tokens of a row see the common part and their own row. Sums are those of the whole batch, and so is the gradient:
that of the common part comes from all rows.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from arislab.finetune.labels import NOT_TRAINED

LEAST_SAVED = 0.1
"""Share of a batch's tokens that must not be read again; less is not worth the copies of keys and values."""
_NAME = "arislab_shared_prefix"


class SharedPrefix:
    """The decoder of a model from transformers, which reads the common part of a batch once.

    The first batch that has one is read both ways; where the hidden states differ, it is never done, nor where there
    is dropout.

    Args:
        core: The model, whose attention is that of torch (``sdpa``).
        tolerance: How far hidden states may be apart, relative to their length.
    """

    def __init__(self, core: Any, *, tolerance: float = 1e-4) -> None:
        self.core, self.config, self.tolerance = core, core.config.get_text_config(), tolerance
        # dropout draws for each place that is read, also where attention has no module for it
        has_dropout = any(isinstance(module, torch.nn.Dropout) and module.p for module in core.modules())
        has_dropout = has_dropout or bool(getattr(self.config, "attention_dropout", 0))
        self.is_right: bool | None = False if has_dropout else None  # not known yet
        self._shape, self._n_layers = (0, 0), 0
        AttentionInterface.register(_NAME, self._attend)
        AttentionMaskInterface.register(_NAME, _no_mask)

    def length(self, input_ids: Any, labels: Any) -> int:
        """Return with how many tokens all rows begin, to be read once; 0 where that saves little or is not possible.

        Args:
            input_ids: [rows, n], padded on the right.
            labels: [rows, n], NOT_TRAINED before the answers, of which each row has one.
        """
        shared = n_shared(input_ids, labels)
        # windows and chunks, outside of which a layer sees nothing
        limits = (getattr(self.config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        if self.is_right is False or any(limit and input_ids.shape[1] > limit for limit in limits):
            return 0
        if shared and self.is_right is None:
            self.is_right = self._is_right(input_ids, shared)
        return shared if self.is_right else 0

    def _is_right(self, input_ids: Any, shared: int) -> bool:
        with torch.no_grad():
            ours = self.hidden(input_ids, shared)
            theirs = self.core.get_decoder()(input_ids=input_ids, use_cache=False)[0][:, shared:]
        # layers that carry a state from token to token do not attend, and would carry it from row to row
        is_whole = self._n_layers == self.config.num_hidden_layers
        apart = float((ours - theirs).norm() / theirs.norm())
        print(f"{shared} tokens read once for {len(input_ids)} rows: hidden states {apart:.1e} apart")  # noqa: T201
        return is_whole and apart < self.tolerance

    def hidden(self, input_ids: Any, shared: int) -> Any:
        """Return the last hidden states [rows, n - shared, width] of a batch behind what its rows share.

        Args:
            input_ids: [rows, n], padded on the right.
            shared: Tokens with which all rows begin, from ``length``.
        """
        rows, n = input_ids.shape
        tokens = torch.cat([input_ids[0, :shared], input_ids[:, shared:].flatten()])
        positions = torch.cat([torch.arange(shared), torch.arange(shared, n).repeat(rows)])
        self._shape, self._n_layers = (rows, shared), 0
        ordinary = self.config._attn_implementation
        self.core.set_attn_implementation(_NAME)
        try:
            hidden = self.core.get_decoder()(input_ids=tokens[None], position_ids=positions[None], use_cache=False)[0]
        finally:
            self.core.set_attn_implementation(ordinary)
        return hidden[0, shared:].view(rows, n - shared, -1)

    def _attend(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        *,
        scaling: float | None = None,
        **others: Any,
    ) -> tuple[Any, None]:
        """Attend as transformers' ``sdpa`` does: [1, heads, tokens, width] to [1, tokens, heads, width]."""
        del attention_mask
        rows, shared = self._shape
        # soft caps and sinks change what attention is
        known = not any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
        self._n_layers += known and getattr(module, "is_causal", True)
        repeats = query.shape[1] // key.shape[1]
        queries, keys, values = (_parts(states, rows, shared) for states in (query, key, value))
        (common_keys, own_keys), (common_values, own_values) = (_seen(*states, repeats) for states in (keys, values))
        of_common = scaled_dot_product_attention(queries[0], common_keys, common_values, is_causal=True, scale=scaling)
        n = queries[1].shape[2]
        mask = torch.ones(n, shared + n, dtype=torch.bool).tril(shared)  # padding stands behind all that is read
        of_own = scaled_dot_product_attention(queries[1], own_keys, own_values, attn_mask=mask, scale=scaling)
        of_own = of_own.transpose(0, 1).flatten(1, 2)[None]
        return torch.cat([of_common, of_own], dim=2).transpose(1, 2).contiguous(), None


def _parts(states: Any, rows: int, shared: int) -> tuple[Any, Any]:
    """Cut [1, heads, tokens, width] into the common part [1, heads, shared, width] and [rows, heads, n, width]."""
    return states[:, :, :shared], states[0, :, shared:].unflatten(1, (rows, -1)).transpose(0, 1)


def _seen(common: Any, own: Any, repeats: int) -> tuple[Any, Any]:
    """Return what the common part sees, itself, and what each row does: the common part and itself."""
    whole = torch.cat([common.expand(len(own), -1, -1, -1), own], dim=2)
    return common.repeat_interleave(repeats, dim=1), whole.repeat_interleave(repeats, dim=1)


def _no_mask(*_: Any, **__: Any) -> None:
    """Attention makes its own."""


def n_shared(input_ids: Any, labels: Any) -> int:
    """Return how many tokens the rows of a batch share and need not read again; 0 where that saves little.

    The last token of a prompt is never among them: what is trained follows it.

    Args:
        input_ids: [rows, n], padded on the right.
        labels: [rows, n], NOT_TRAINED before the answers, of which each row has one.

    Example:
        >>> prompts = torch.tensor([[5, 6, 7, 8, 1], [5, 6, 7, 9, 2]])
        >>> n_shared(prompts, torch.tensor([[-100, -100, -100, -100, 1], [-100, -100, -100, -100, 2]]))
        3
    """
    rows, n = input_ids.shape
    most = int((labels != NOT_TRAINED).int().argmax(dim=1).min()) - 1
    if rows == 1 or most < 1:
        return 0
    differs = (input_ids[:, :most] != input_ids[:1, :most]).any(dim=0)
    shared = int(differs.int().argmax()) if differs.any() else most
    return shared if shared * (rows - 1) >= LEAST_SAVED * rows * n else 0
