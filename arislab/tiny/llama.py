"""Llama in plain torch, for sampling many rows at once: the layers, and the loop that decodes a batch.

Faster than a stock ``generate`` on a CPU: the keys and values of a common prefix are computed and kept once for all
rows, finished rows are dropped from the batch, and the projections that read the same input are one matrix. Each row
draws from a random stream of its own. Call it under ``torch.inference_mode()``.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from arislab.errors import PrerequisiteError

MASKED = -1e9  # not -inf: padding that sees only padding would be NaN, and NaN times a weight of 0 is NaN
Weights = dict[str, torch.Tensor]
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Row:
    """One prompt and what is being written to it."""

    prompt: list[int]
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    limit: int
    """Tokens to write at most."""
    seed: int
    written: list[int] = field(default_factory=list)
    ended: bool = False
    """The model wrote an end token, which is not in ``written``."""


def check(config: dict[str, Any]) -> None:
    """Raise PrerequisiteError for a checkpoint that these layers would compute wrongly."""
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
    if wrong:
        raise PrerequisiteError(
            f"this checkpoint has {'; '.join(wrong)}. Serve it with vLLM and give its URL as upstream."
        )


def merge(weights: Weights, config: dict[str, Any], adapter: Weights) -> Weights:
    """Return the weights with a PEFT LoRA adapter added to them.

    Args:
        weights: of the base model, by their names in the checkpoint
        config: adapter_config.json
        adapter: tensors of adapter_model.safetensors, ``base_model.model.<name>.lora_A.weight`` and ``lora_B``
    """
    beyond = [name for name in ("use_dora", "modules_to_save", "alpha_pattern", "fan_in_fan_out") if config.get(name)]
    if config.get("peft_type", "LORA") != "LORA" or config.get("bias", "none") != "none" or beyond:
        raise PrerequisiteError(
            f"this adapter is not plain LoRA ({', '.join(beyond) or 'other type or biases'}); serve it with vLLM"
        )
    merged, left = dict(weights), dict(adapter)
    for name_a in [name for name in adapter if name.endswith(".lora_A.weight")]:
        a, b = left.pop(name_a).float(), left.pop(name_a.replace("lora_A", "lora_B")).float()
        name = name_a.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        base = weights.get(name)
        if base is None or base.shape != (b.shape[0], a.shape[1]):
            raise PrerequisiteError(
                f"the adapter changes {name!r}, which this base model lacks in that shape; it belongs to another base"
            )
        rank = a.shape[0]
        merged[name] = base + (b @ a) * (config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank))
    if left:
        raise PrerequisiteError(
            f"the adapter holds {sorted(left)[0]!r}, which is not part of a plain LoRA; serve it with vLLM"
        )
    return merged


class Llama:
    """The layers of one model: config.json and float32 weights by checkpoint name."""

    def __init__(self, config: dict[str, Any], weights: Weights) -> None:
        check(config)
        self.n_layers, self.n_heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.n_kv = config.get("num_key_value_heads") or self.n_heads
        self.width = config.get("head_dim") or config["hidden_size"] // self.n_heads
        self.eps, self.context = config["rms_norm_eps"], config["max_position_embeddings"]
        self.embed, self.norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        tied = config.get("tie_word_embeddings", False) or "lm_head.weight" not in weights
        self.unembed = (self.embed if tied else weights["lm_head.weight"]).t().contiguous()

        # transposed once: checkpoints hold (out, in)
        def joined(layer: int, *names: str) -> torch.Tensor:
            return torch.cat([weights[f"model.layers.{layer}.{name}.weight"] for name in names]).t().contiguous()

        self.layers = [
            (
                weights[f"model.layers.{i}.input_layernorm.weight"],
                joined(i, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                joined(i, "self_attn.o_proj"),
                weights[f"model.layers.{i}.post_attention_layernorm.weight"],
                joined(i, "mlp.gate_proj", "mlp.up_proj"),
                joined(i, "mlp.down_proj"),
            )
            for i in range(self.n_layers)
        ]
        theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
        frequency = 1 / theta ** (torch.arange(0, self.width, 2).float() / self.width)
        angle = torch.outer(torch.arange(self.context).float(), frequency).repeat(1, 2)
        self.cos, self.sin = angle.cos(), angle.sin()

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token's keys and values."""
        return 2 * 4 * self.n_layers * self.n_kv * self.width

    def rotated(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Apply rotary positions to ``x`` [rows, tokens, heads, width]."""
        half = self.width // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos[positions][:, :, None] + turned * self.sin[positions][:, :, None]

    def empty(self, n_rows: int, n_slots: int) -> KeyValues:
        """Return room for the keys and values of a batch: a pair [rows, kv heads, slots, width] for each layer."""
        shape = (n_rows, self.n_kv, n_slots, self.width)
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(self.n_layers)]

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: KeyValues,
        at: int,
        mask: torch.Tensor,
        prefix: KeyValues | None = None,
    ) -> torch.Tensor:
        """Return the logits after the last token of each row.

        Args:
            tokens: [rows, n]; their keys and values are written to ``slots`` from ``at`` on
            positions: [rows, n] for the rotary embedding
            slots: as from ``empty``
            at: first slot to write
            mask: [rows or 1, 1, n, at + n], 0 or MASKED, over the slots
            prefix: keys and values [kv heads, p, width] by layer that every row sees in full; None: no prefix
        """
        (rows, n), kv, width = tokens.shape, self.n_kv, self.width
        per_kv = self.n_heads // kv
        x = self.embed[tokens]
        for i, (norm_1, w_qkv, w_out, norm_2, w_gate_up, w_down) in enumerate(self.layers):
            keys, values = slots[i]
            qkv = (F.rms_norm(x, x.shape[-1:], norm_1, self.eps).view(rows * n, -1) @ w_qkv).view(rows, n, -1, width)
            q = self.rotated(qkv[:, :, : self.n_heads], positions).transpose(1, 2) * width**-0.5
            keys[:, :, at : at + n] = self.rotated(qkv[:, :, self.n_heads : self.n_heads + kv], positions).transpose(
                1, 2
            )
            values[:, :, at : at + n] = qkv[:, :, self.n_heads + kv :].transpose(1, 2)
            keys, values = keys[:, :, : at + n], values[:, :, : at + n]
            q = q.reshape(rows, kv, per_kv * n, width)  # queries that share a key head, in one product
            scores = (q @ keys.mT).view(rows, self.n_heads, n, -1) + mask
            if prefix is None:
                out = scores.softmax(-1).view(rows, kv, per_kv * n, -1) @ values
            else:
                out = self._attend(q, scores, values, *prefix[i])
            out = out.reshape(rows, self.n_heads, n, width).transpose(1, 2).reshape(rows * n, -1)
            x = x + (out @ w_out).view(rows, n, -1)
            gate, up = (F.rms_norm(x, x.shape[-1:], norm_2, self.eps).view(rows * n, -1) @ w_gate_up).chunk(2, -1)
            x = x + ((F.silu(gate) * up) @ w_down).view(rows, n, -1)
        return F.rms_norm(x[:, -1], x.shape[-1:], self.norm, self.eps) @ self.unembed

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
        """Return the keys and values [kv heads, p, width] of a common prefix; None for an empty one."""
        if not tokens:
            return None
        p = len(tokens)
        slots = self.empty(1, p)
        causal = torch.full((p, p), MASKED).triu(1)[None, None]
        self.forward(torch.tensor([tokens]), torch.arange(p)[None], slots, 0, causal)
        return [(keys[0], values[0]) for keys, values in slots]

    def decode(self, rows: list[Row], prefix: KeyValues | None, n_prefix: int, ends: frozenset[int]) -> None:
        """Write all rows of a batch; their prompts begin with the ``n_prefix`` tokens of ``prefix``."""
        # all of a row's luck at once and from its own seed: which rows stand beside it, or have ended, changes nothing
        noise = torch.stack(
            [torch.rand(max(r.limit for r in rows), generator=torch.Generator().manual_seed(r.seed)) for r in rows]
        )
        tails = [row.prompt[n_prefix:] for row in rows]
        at = max(map(len, tails))  # padded on the left: all rows write their next token into the same slot
        tokens, padding = torch.zeros((len(rows), at), dtype=torch.long), torch.zeros(len(rows), at)
        for i, tail in enumerate(tails):
            tokens[i, at - len(tail) :] = torch.tensor(tail)
            padding[i, : at - len(tail)] = MASKED
        lengths = torch.tensor([[len(tail)] for tail in tails])
        positions = (torch.arange(at)[None] - (at - lengths)).clamp(min=0) + n_prefix
        slots = self.empty(len(rows), at + 32)
        logits = self._read(tokens, positions, slots, padding, prefix)
        positions, settings = positions[:, -1:], torch.tensor([[r.temperature, r.top_p] for r in rows])
        for step in range(noise.shape[1]):
            drawn = draw(logits, settings[:, 0], settings[:, 1], noise[:, step])
            live = []
            for i, (row, token) in enumerate(zip(rows, drawn.tolist(), strict=True)):
                row.ended = token in ends
                if not row.ended:
                    row.written.append(token)
                    if len(row.written) < row.limit:
                        live.append(i)
            if not live:
                return
            if len(live) < len(rows):
                rows, keep = [rows[i] for i in live], torch.tensor(live)
                drawn, positions, padding = drawn[keep], positions[keep], padding[keep]
                noise, settings = noise[keep], settings[keep]
                slots = [(keys[keep], values[keep]) for keys, values in slots]
            if at == slots[0][0].shape[2]:
                slots = [(F.pad(keys, (0, 0, 0, 32)), F.pad(values, (0, 0, 0, 32))) for keys, values in slots]
            positions, padding = positions + 1, F.pad(padding, (0, 1))
            logits = self.forward(drawn[:, None], positions, slots, at, padding[:, None, None], prefix)
            at += 1

    def _read(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: KeyValues,
        padding: torch.Tensor,
        prefix: KeyValues | None,
    ) -> torch.Tensor:
        """Read the prompts, a few rows at a time: scores of all rows at once would not fit into memory."""
        n_rows, n = tokens.shape
        n_prefix = prefix[0][0].shape[1] if prefix else 0
        some = max(1, 2**24 // (self.n_heads * n * (n + n_prefix)))
        causal = torch.full((n, n), MASKED).triu(1)[None, None]
        logits = []
        for i in range(0, n_rows, some):
            part = slice(i, i + some)
            own = [(keys[part], values[part]) for keys, values in slots]
            mask = (causal + padding[part, None, None]).clamp(min=MASKED)  # masked twice is masked once
            logits.append(self.forward(tokens[part], positions[part], own, 0, mask, prefix))
        return torch.cat(logits)


def draw(logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Choose one token a row; ``temperature``, ``top_p`` and ``noise`` (uniform in 0..1) hold one number a row."""
    drawn = logits.argmax(-1)
    sampled = (temperature > 0).nonzero().squeeze(1)
    if len(sampled):
        chances = (logits[sampled] / temperature[sampled, None].clamp(min=1e-4)).softmax(-1)
        drawn[sampled] = inverse_cdf(chances, noise[sampled])
        nucleus = (top_p[sampled] < 1).nonzero().squeeze(1)
        if len(nucleus):
            ranked, order = chances[nucleus].sort(descending=True, stable=True)
            before = ranked.cumsum(-1) - ranked  # the token that passes top_p belongs to the nucleus
            outside = before >= top_p[sampled][nucleus, None]
            outside[:, 0] = False  # the likeliest token stays, whatever top_p
            ranked = ranked.masked_fill(outside, 0.0)
            place = inverse_cdf(ranked, noise[sampled][nucleus])
            drawn[sampled[nucleus]] = order.gather(1, place[:, None]).squeeze(1)
    return drawn


def inverse_cdf(chances: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the token at which the cumulated chance passes ``noise``."""
    cumulated = chances.cumsum(-1)
    total = cumulated[:, -1:]
    place = torch.searchsorted(cumulated, noise[:, None] * total, right=True).squeeze(1)
    return place.minimum((cumulated < total).sum(-1))  # rounding must not reach past the last possible token
