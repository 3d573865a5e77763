"""Llama in plain torch, for sampling many rows at once.

Faster than a stock ``generate`` on a CPU: the keys and values of a common prefix are computed and kept once for all
rows, finished rows are dropped from the batch, and the projections that read the same input are one matrix. Call it
under ``torch.inference_mode()``.
"""

import copy
import math
import mmap
import os
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from arislab.errors import PrerequisiteError
from arislab.system import heap
from arislab.tiny.sampling import GROWTH, MASKED
from arislab.tiny.weights import Pairs, Weights, other_base

READ_SCORES = 2**22
"""Attention scores at once while prompts are read."""
READ_VALUES = 2**22
"""Numbers between the matrices of one layer's MLP at once while prompts are read; half of them for a large model, which
is as fast so, and takes less memory."""
PACKED_NUMBERS = 2**18
"""Numbers of a float32 matrix from which on it is held as oneDNN multiplies it: 1.1 (1,000 rows) to 1.4 times (30
rows) as fast as a plain one, 2.2 to 2.4 times where the CPU computes 512 bits at once. For smaller ones the call takes
longer than is gained."""
_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
"""oneDNN makes a program of its own for each number of rows, .5 MB and .6 ms, and keeps 1,024 of them: a server whose
batches shrink row by row grows by hundreds of MB. Read at its first product, unless somebody has set it."""
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
Update = tuple[torch.Tensor, torch.Tensor] | None
"""What an adapter adds to a matrix [in, out]: [in, r] @ [r, out], its scale in the second; None: nothing."""


def problems(config: dict[str, Any]) -> list[str]:
    """Return what these layers would compute wrongly of a checkpoint, with what is allowed; empty: nothing."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}  # transformers 5, and before
    kind = rope.get("rope_type", rope.get("type", "default"))
    wrong = []
    if config.get("model_type") != "llama":
        wrong.append(f"model_type {config.get('model_type')!r}, allowed is 'llama'")
    if kind != "default":
        wrong.append(f"rope_type {kind!r}, allowed is 'default'")
    if config.get("attention_bias") or config.get("mlp_bias"):
        wrong.append("biases, allowed is none")
    if config.get("hidden_act", "silu") != "silu":
        wrong.append(f"hidden_act {config['hidden_act']!r}, allowed is 'silu'")
    return wrong


JOINED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""Matrices of a layer that read the same, and are multiplied as one."""


def packed(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix [out, in] in the layout in which oneDNN multiplies many rows with it."""
    out: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, 128)
    return out


def times_packed(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return ``x`` [rows, in] times a matrix that is packed."""
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
    return out


def times(x: torch.Tensor, matrix: torch.Tensor, update: Update = None) -> torch.Tensor:
    """Return ``x`` [rows, in] times a matrix with its adapter, in float32."""
    out = times_packed(x, matrix) if matrix.is_mkldnn else (x.to(matrix.dtype) @ matrix).float()
    return out if update is None else out + (x @ update[0]) @ update[1]


def zeros(*shape: int) -> torch.Tensor:
    """Return room that counts where it is written, and goes back to the system as a whole when nobody needs it.

    In the C library's heap it would take its memory at once, and leave holes.
    """
    n = math.prod(shape)
    room = mmap.mmap(-1, max(1, n) * 4, access=mmap.ACCESS_COPY)
    return torch.frombuffer(room, dtype=torch.float32)[:n].view(shape)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions to ``x`` [rows, tokens, heads, width]; the first half of ``sin`` is negative."""
    first, second = x.chunk(2, -1)
    return (x * cos).add_(torch.cat([second, first], -1).mul_(sin))


def gated(x: torch.Tensor) -> torch.Tensor:
    """Return the second half of each row of ``x``, gated by the first."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


class Llama:
    """The layers of one model.

    Args:
        config: config.json
        weights: by checkpoint name
        is_small: keep matrices as they are multiplied fastest for one row, in float32, and each product in the shape in
            which recorded log-probabilities were computed, to the last bit; else take least room, and time of many rows
        bfloat16: leave matrices that are in bfloat16 so, and round what is multiplied with them; sums, attention and
            logits are float32 all the same
    """

    about = "arislab's own Llama layers"
    shares_prefix = True
    most_rows = 128

    def __init__(
        self, config: dict[str, Any], weights: Weights, *, is_small: bool = True, bfloat16: bool = False
    ) -> None:
        if wrong := problems(config):
            raise PrerequisiteError(f"this checkpoint has {'; '.join(wrong)}")
        self.n_layers, self.n_heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.n_kv = config.get("num_key_value_heads") or self.n_heads
        self.width = config.get("head_dim") or config["hidden_size"] // self.n_heads
        self.eps, self.context = config["rms_norm_eps"], config["max_position_embeddings"]
        self.inner = config["intermediate_size"]

        self.is_small = is_small
        packs = not is_small and torch.backends.mkldnn.is_available()
        if packs:
            os.environ.setdefault(*_KERNELS)
        room = torch.empty(0)  # for what is to be packed: matrices of their own would leave holes in memory

        # checkpoints hold (out, in); of one row a matrix that is transposed once is the faster, of several none is
        def matrix(*names: str, is_logits: bool = False) -> torch.Tensor:
            parts = [weights[name] for name in names]
            if is_logits or not (bfloat16 and parts[0].dtype == torch.bfloat16):
                parts = [part.float() for part in parts]
            if packs and parts[0].dtype == torch.float32 and sum(part.numel() for part in parts) >= PACKED_NUMBERS:
                return packed(torch.cat(parts, out=room.resize_(0)))
            whole = torch.cat(parts)  # a copy, also of one
            return whole.t().contiguous() if is_small else whole.t()

        self.norm = weights["model.norm.weight"].float().clone()
        tied = config.get("tie_word_embeddings", False) or "lm_head.weight" not in weights
        self.embed = torch.cat([weights["model.embed_tokens.weight"].float()])
        # bfloat16 has 8 bits: the likeliest tokens would often be a tie
        self.unembed = matrix("lm_head.weight", is_logits=True) if not tied else self.embed.t()
        if tied and is_small:
            self.unembed = self.unembed.contiguous()
        self.layers = [
            (
                weights[f"model.layers.{i}.input_layernorm.weight"].float().clone(),
                weights[f"model.layers.{i}.post_attention_layernorm.weight"].float().clone(),
                [matrix(*(f"model.layers.{i}.{name}.weight" for name in names)) for names in JOINED],
            )
            for i in range(self.n_layers)
        ]
        self.sizes = {
            "q_proj": self.n_heads * self.width,
            "k_proj": self.n_kv * self.width,
            "v_proj": self.n_kv * self.width,
            "o_proj": config["hidden_size"],
            "gate_proj": self.inner,
            "up_proj": self.inner,
            "down_proj": config["hidden_size"],
        }
        if not is_small:
            heap.trim()
        self.updates: list[list[Update]] = [[None] * len(JOINED)] * self.n_layers
        self._prefix: tuple[list[int], KeyValues] | None = None
        theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
        frequency = 1 / theta ** (torch.arange(0, self.width, 2).float() / self.width)
        angle = torch.outer(torch.arange(self.context).float(), frequency)
        self.cos, self.sin = angle.cos().repeat(1, 2), torch.cat([-angle.sin(), angle.sin()], 1)

    def adapted(self, pairs: Pairs) -> "Llama":
        """Return the model with a LoRA adapter beside its matrices, which both share.

        Raises:
            PrerequisiteError: The adapter is for a model of other matrices.
        """
        other, left = copy.copy(self), dict(pairs)
        other._prefix = None
        other.updates = [
            [self._update(left, i, names, matrices[j]) for j, names in enumerate(JOINED)]
            for i, (_, _, matrices) in enumerate(self.layers)
        ]
        if left:
            raise other_base(sorted(left)[0])
        return other

    def _update(self, left: Pairs, layer: int, names: tuple[str, ...], matrix: torch.Tensor) -> Update:
        """Take the pairs of the parts of one matrix out of ``left``, and join them to one."""
        down, up, begin = [], [], 0
        n_in, n_all = matrix.shape[::-1] if matrix.is_mkldnn else matrix.shape
        for name in names:
            n_out = self.sizes[name.rpartition(".")[2]]
            full = f"model.layers.{layer}.{name}.weight"
            if full in left:
                a, b, scale = left.pop(full)
                if (b.shape[0], a.shape[1]) != (n_out, n_in):
                    raise other_base(full)
                down.append(a.t())
                up.append(F.pad(b.t() * scale, (begin, n_all - begin - n_out)))
            begin += n_out
        return (torch.cat(down, 1), torch.cat(up)) if down else None

    def bytes_of(self, n_tokens: int, n_prefix: int) -> int:
        """Return the memory of a row's keys and values; those of a prefix are kept once for all rows."""
        del n_prefix
        return 2 * 4 * self.n_layers * self.n_kv * self.width * n_tokens

    def empty(self, n_rows: int, n_slots: int) -> KeyValues:
        """Return room for the keys and values of a batch: a pair [rows, kv heads, slots, width] for each layer."""
        shape = (n_rows, self.n_kv, n_slots, self.width)
        return [(self.zeros(*shape), self.zeros(*shape)) for _ in range(self.n_layers)]

    def zeros(self, *shape: int) -> torch.Tensor:
        """Return room; that of a small model from the heap, which is 5 % of the time of its answers faster."""
        return torch.zeros(shape) if self.is_small else zeros(*shape)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: KeyValues,
        at: int,
        mask: torch.Tensor,
        prefix: KeyValues | None = None,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the logits after the last token of each row.

        Args:
            tokens: [rows, n]; their keys and values are written to ``slots`` from ``at`` on
            positions: [rows, n] for the rotary embedding
            slots: as from ``empty``
            at: first slot to write
            mask: [rows or 1, 1, n, at + n], 0 or MASKED, over the slots
            prefix: keys and values [kv heads, p, width] by layer that every row sees in full; None: no prefix
            room: [rows or more, vocabulary] for the logits; None: a new one
        """
        (rows, n), kv, width = tokens.shape, self.n_kv, self.width
        per_kv, end = self.n_heads // kv, at + n
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        x = self.embed[tokens]
        for i, (norm_1, norm_2, (w_qkv, w_out, w_gate_up, w_down)) in enumerate(self.layers):
            (keys, values), (u_qkv, u_out, u_gate_up, u_down) = slots[i], self.updates[i]
            normed = F.rms_norm(x, x.shape[-1:], norm_1, self.eps).view(rows * n, -1)
            qkv = times(normed, w_qkv, u_qkv).view(rows, n, -1, width)
            q, new = rotated(qkv[:, :, : self.n_heads + kv], cos, sin).split([self.n_heads, kv], 2)
            keys[:, :, at:end] = new.transpose(1, 2)
            values[:, :, at:end] = qkv[:, :, self.n_heads + kv :].transpose(1, 2)
            keys, values = keys[:, :, :end], values[:, :, :end]
            if not self.is_small and i == self.n_layers - 1:  # nothing reads what comes of the other tokens
                q, x, mask, n = q[:, -1:], x[:, -1:], mask[:, :, -1:], 1
            q = q.transpose(1, 2) * width**-0.5
            q = q.reshape(rows, kv, per_kv * n, width)  # queries that share a key head, in one product
            scores = (q @ keys.mT).view(rows, self.n_heads, n, -1).add_(mask)
            if prefix is None:
                out = scores.softmax(-1).view(rows, kv, per_kv * n, -1) @ values
            else:
                out = self._attend(q, scores, values, *prefix[i])
            out = out.reshape(rows, self.n_heads, n, width).transpose(1, 2).reshape(rows * n, -1)
            x = times(out, w_out, u_out).view(rows, n, -1).add_(x)
            normed = F.rms_norm(x, x.shape[-1:], norm_2, self.eps).view(rows * n, -1)
            x = times(gated(times(normed, w_gate_up, u_gate_up)), w_down, u_down).view(rows, n, -1).add_(x)
        x = F.rms_norm(x[:, -1], x.shape[-1:], self.norm, self.eps)
        if room is None or self.unembed.is_mkldnn:
            return times(x, self.unembed)
        return torch.mm(x, self.unembed, out=room[:rows])

    def _attend(
        self,
        q: torch.Tensor,
        scores: torch.Tensor,
        values: torch.Tensor,
        prefix_keys: torch.Tensor,
        prefix_values: torch.Tensor,
    ) -> torch.Tensor:
        """Attend to own slots and prefix.

        The prefix is one product for the queries of all rows, without copies of it.
        """
        (rows, kv, queries, width), p = q.shape, prefix_keys.shape[1]
        n = scores.shape[2]
        flat = q.transpose(0, 1).reshape(kv, rows * queries, width)
        to_prefix = (flat @ prefix_keys.mT).view(kv, rows, queries, p).transpose(0, 1).reshape(rows, self.n_heads, n, p)
        share = torch.cat([to_prefix, scores], -1).softmax(-1)
        from_prefix = share[..., :p].reshape(rows, kv, queries, p).transpose(0, 1).reshape(kv, -1, p) @ prefix_values
        from_prefix = from_prefix.view(kv, rows, queries, width).transpose(0, 1)
        return from_prefix + share[..., p:].reshape(rows, kv, queries, -1) @ values

    def prefill(self, tokens: list[int]) -> KeyValues | None:
        """Return the keys and values [kv heads, p, width] of a common prefix; None for an empty one.

        The last one is kept: the next rows often have the same.
        """
        if not tokens:
            return None
        if self._prefix is None or self._prefix[0] != tokens:
            self._prefix = None  # two at once may not fit
            slots = self.empty(1, len(tokens))
            everything = torch.arange(len(tokens))[None]
            self._read(torch.tensor([tokens]), everything, slots, torch.zeros(1, len(tokens)), None)
            self._prefix = (list(tokens), [(keys[0], values[0]) for keys, values in slots])
        return self._prefix[1]

    def start(
        self, tokens: torch.Tensor, padding: torch.Tensor, prefix: KeyValues | None, n_prefix: int
    ) -> tuple["_Batch", torch.Tensor]:
        """Read the prompts of a batch, see ``sampling.Layers``."""
        n_rows, n = tokens.shape
        lengths = (padding == 0).sum(1, keepdim=True)
        positions = (torch.arange(n)[None] - (n - lengths)).clamp(min=0) + n_prefix
        slots = self.empty(n_rows, n + GROWTH)
        logits = self._read(tokens, positions, slots, padding, prefix)
        if not self.is_small:
            heap.trim()  # of what was between the matrices; there is more of it than while the answers are written
        room = None if self.is_small else logits
        return _Batch(self, slots, n, positions[:, -1:], padding, prefix, room), logits

    def _read(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: KeyValues,
        padding: torch.Tensor,
        prefix: KeyValues | None,
    ) -> torch.Tensor:
        """Read the prompts, a few rows at a time, and of these a piece at a time.

        Scores of all rows at once would not fit into memory, and those of a long one are quadratic in its length.
        """
        n_rows, n = tokens.shape
        n_seen = n + (prefix[0][0].shape[1] if prefix else 0)
        n_values = READ_VALUES if self.is_small else READ_VALUES // 2
        some = max(1, min(READ_SCORES // (self.n_heads * n * n_seen), n_values // (2 * self.inner * n)))
        logits = self.zeros(n_rows, self.embed.shape[0])
        # the longest are the last and take most: the others find room where those had it
        for i in reversed(range(0, n_rows, some)):
            part = slice(i, i + some)
            own = [(keys[part], values[part]) for keys, values in slots]
            rows = len(tokens[part])
            skipped = 0 if self.is_small else int((padding[part] == MASKED).all(0).sum())
            piece = min(READ_SCORES // (rows * self.n_heads * n_seen), n_values // (2 * self.inner * rows))
            for begin in range(skipped, n, max(16, piece)):
                end = min(begin + max(16, piece), n)
                causal = torch.full((end - begin, end), MASKED).triu(begin + 1)[None, None]
                mask = (causal + padding[part, None, None, :end]).clamp(min=MASKED)  # masked twice is masked once
                last = self.forward(tokens[part, begin:end], positions[part, begin:end], own, begin, mask, prefix)
            logits[part] = last
        return logits


class _Batch:
    """Keys and values of rows that are being written, see ``sampling.Batch``."""

    def __init__(
        self,
        model: Llama,
        slots: KeyValues,
        at: int,
        positions: torch.Tensor,
        padding: torch.Tensor,
        prefix: KeyValues | None,
        room: torch.Tensor | None,
    ) -> None:
        self._model, self._slots, self._at, self._prefix = model, slots, at, prefix
        # for the logits of all steps: tens of MB of each, fewer and fewer, would leave holes in the heap
        self._room = room
        self._positions, self._padding = positions, padding

    def keep(self, rows: torch.Tensor) -> None:
        self._positions, self._padding = self._positions[rows], self._padding[rows]
        moved = (rows != torch.arange(len(rows))).nonzero().squeeze(1)
        # in their place, what is written alone, and by way of one room: else there would be holes in memory
        held = self._model.zeros(len(moved), *self._slots[0][0][0, :, : self._at].shape)
        for i, pair in enumerate(self._slots):
            for room in pair:
                written = room[:, :, : self._at]
                written.index_copy_(0, moved, torch.index_select(written, 0, rows[moved], out=held))
            self._slots[i] = (pair[0][: len(rows)], pair[1][: len(rows)])

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        if self._at == self._slots[0][0].shape[2]:
            for i, pair in enumerate(self._slots):
                keys, values = (self._model.zeros(*room.shape[:2], self._at + GROWTH, room.shape[3]) for room in pair)
                keys[:, :, : self._at], values[:, :, : self._at] = pair
                self._slots[i] = (keys, values)
        self._positions, self._padding = self._positions + 1, F.pad(self._padding, (0, 1))
        mask = self._padding[:, None, None]
        logits = self._model.forward(
            tokens[:, None], self._positions, self._slots, self._at, mask, self._prefix, self._room
        )
        self._at += 1
        return logits
