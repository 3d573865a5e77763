"""Train the embedded model from scratch: ``python -m arislab.tiny.pretrain --folder data/models/tiny``.

The recipe is pretrain.json. Everything is counted in steps and seeded by step, so a run that was stopped goes on from
its last checkpoint as if nothing had happened, and the same machine gives the same weights again. About ten million
tokens.
"""

import argparse
import json
import logging
import time
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from arislab.system import files as whole_files
from arislab.tiny import tokenizer as tokenizers_of_tiny
from arislab.tiny.grammar import Chat, document, primer

log = logging.getLogger(__name__)

Recipe = dict[str, Any]
Example = tuple[list[int], list[bool]]


def read_recipe(path: Path | None = None) -> Recipe:
    """Read a recipe; None is the committed one."""
    text = path.read_text("utf-8") if path else files("arislab.tiny").joinpath("pretrain.json").read_text("utf-8")
    recipe: Recipe = json.loads(text)
    return recipe


def new_model(recipe: Recipe, tokenizer: Any) -> Any:
    """Build the untrained model.

    One head of each key group starts by comparing contents, and what is attended to is written back unrotated.

    Source:
        Mimetic initialisation (Trockman & Kolter 2023).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(recipe["model"])
    theta = shape.pop("rope_theta")
    torch.manual_seed(recipe["train"]["seed"])
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=tokenizer.token_to_id("<|bos|>"),
        eos_token_id=tokenizer.token_to_id("<|end|>"),
        pad_token_id=tokenizer.token_to_id("<|pad|>"),
        **shape,
    )
    model = LlamaForCausalLM(config)
    n_heads, n_kv, width = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.08)
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.k_proj.weight.normal_(0, 0.07)
            attention.v_proj.weight.normal_(0, 0.07)
            for head in range(n_heads):
                group = head // (n_heads // n_kv)
                own, shared = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
                if head % (n_heads // n_kv) == 0:
                    attention.q_proj.weight[own] = attention.k_proj.weight[shared]
                attention.o_proj.weight[:, own] = 0.3 * attention.v_proj.weight[shared].t()
    return model.train()


def new_optimizers(model: Any, train: Recipe) -> list[Any]:
    """Return AdamW for embeddings and norms, Muon for the matrices of the layers."""
    import torch

    from arislab.tiny.muon import Muon

    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    of_layers = {id(p) for p in matrices}  # by identity: `in` would compare tensors, element by element
    others = [p for p in model.parameters() if id(p) not in of_layers]
    adamw = torch.optim.AdamW(others, lr=train["adamw_lr"], betas=(0.9, 0.98), weight_decay=0.0)
    muon = Muon(matrices, lr=train["muon_lr"], weight_decay=train["muon_weight_decay"])
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [adamw, muon]


def encode(chats: list[Chat], tokenizer: Any) -> list[Example]:
    """Return token ids as the chat template writes them, and which of them the model answers for."""
    bodies = iter(tokenizer.encode_batch([m["content"] for chat in chats for m in chat], add_special_tokens=False))
    bos, end = tokenizer.token_to_id("<|bos|>"), tokenizer.token_to_id("<|end|>")
    examples = []
    for chat in chats:
        ids, answered = [bos], [False]
        for message in chat:
            body = [*next(bodies).ids, end]
            ids += [tokenizer.token_to_id(f"<|{message['role']}|>"), *body]
            answered += [False] + [message["role"] == "assistant"] * len(body)
        examples.append((ids, answered))
    return examples


def micro_batch(rng: Random, stage: Recipe, n_tokens: int, tokenizer: Any) -> tuple[str, Any, Any]:
    """Draw one micro-batch of one kind, one chat a row: the kind, token ids, and the mask of answered tokens."""
    import torch

    kind = rng.choices(list(stage["mix"]), list(stage["mix"].values()))[0]
    form, turns = kind.split()[0], int(kind.split()[1])
    rows = max(3, n_tokens // ((90 if form == "primer" else 106) * turns + 12))
    if form == "primer":
        chats = [primer(rng, turns) for _ in range(rows)]
    else:
        chats = [document(rng, turns, flawless=stage["flawless"]) for _ in range(rows)]
    examples = encode(chats, tokenizer)
    width = -(-max(len(ids) for ids, _ in examples) // 8) * 8  # padded on the right, where causal attention never looks
    tokens = torch.full((rows, width), tokenizer.token_to_id("<|pad|>"))
    answered = torch.zeros((rows, width), dtype=torch.bool)
    for row, (ids, mask) in enumerate(examples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        answered[row, : len(ids)] = torch.tensor(mask)
    return kind, tokens, answered


def lr_factor(step: int, train: Recipe) -> float:
    """Return the learning rate of a step as a share of its peak: warm-up, plateau, linear decay."""
    done = step / train["steps"]
    left = max(0.0, 1 - done) / (1 - train["decay_from"])
    decay = 1.0 if done < train["decay_from"] else train["final_lr"] + (1 - train["final_lr"]) * left
    return float(min(1.0, (step + 1) / train["warmup_steps"]) * decay)


def train_step(model: Any, optimizers: list[Any], step: int, train: Recipe, tokenizer: Any) -> dict[str, Any]:
    """Take one step and return its losses by kind of text and its token counts."""
    import torch

    stage = next(stage for stage in train["stages"] if step < stage["until"])
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * lr_factor(step, train)
    tokens_seen, answered_seen, losses = 0, 0, {}
    for part in range(train["micro_batches"]):
        rng = Random(f"{train['seed']}-{step}-{part}")
        kind, tokens, answered = micro_batch(rng, stage, train["micro_tokens"], tokenizer)
        # the output head only where an answer is predicted; each position predicts the next token
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1][answered[:, 1:]]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), tokens[:, 1:][answered[:, 1:]])
        (loss / train["micro_batches"]).backward()
        losses[kind] = loss.item()
        tokens_seen += tokens.numel()
        answered_seen += len(hidden)
    torch.nn.utils.clip_grad_norm_(model.parameters(), train["clip"])
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"losses": losses, "tokens": tokens_seen, "answered_tokens": answered_seen}


def save(model: Any, tokenizer: Any, folder: Path, record: dict[str, Any]) -> None:
    """Write a model folder that transformers, vLLM and arislab.tiny.decoder load."""
    model.save_pretrained(folder)
    tokenizers_of_tiny.save(tokenizer, folder)
    (folder / "train.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def pretrain(recipe: Recipe, folder: Path, *, stop: int | None = None, checkpoint_every: int = 250) -> dict[str, Any]:
    """Train by a recipe and write the model to ``folder``; goes on from ``folder/checkpoint`` when there is one.

    Args:
        recipe: as pretrain.json
        folder: gets config.json, model.safetensors, the tokenizer and train.json
        stop: stop after this step; None trains to the end
        checkpoint_every: steps between checkpoints

    Returns:
        The record in train.json: steps, tokens, answered_tokens, cpu_s, loss by kind of text, recipe.
    """
    import torch

    train = recipe["train"]
    tokenizer = tokenizers_of_tiny.build()
    model = new_model(recipe, tokenizer)
    optimizers = new_optimizers(model, train)
    record: dict[str, Any] = {"steps": 0, "tokens": 0, "answered_tokens": 0, "cpu_s": 0.0, "loss": {}, "recipe": recipe}
    state = folder / "checkpoint" / "state.pt"
    if state.exists():
        saved = torch.load(state)
        record = saved["record"]
        model.load_state_dict(saved["model"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
    log.info("%d parameters, from step %d", sum(p.numel() for p in model.parameters()), record["steps"])
    spent_s, began = record["cpu_s"], time.process_time()
    last = min(train["steps"], stop or train["steps"])
    while record["steps"] < last:
        step = train_step(model, optimizers, record["steps"], train, tokenizer)
        for kind, loss in step["losses"].items():
            record["loss"][kind] = 0.95 * record["loss"].get(kind, loss) + 0.05 * loss  # of about twenty steps
        record["steps"] += 1
        record["tokens"] += step["tokens"]
        record["answered_tokens"] += step["answered_tokens"]
        record["cpu_s"] = round(spent_s + time.process_time() - began, 1)
        if record["steps"] % 25 == 0:
            losses = {kind: round(loss, 3) for kind, loss in sorted(record["loss"].items())}
            log.info("%d %.2fM tokens %.0f cpu_s %s", record["steps"], record["tokens"] / 1e6, record["cpu_s"], losses)
        if record["steps"] % checkpoint_every == 0:
            save(model, tokenizer, folder / "checkpoint", record)
            kept = {"record": record, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            with whole_files.written(state) as file:
                torch.save(kept, file)
    save(model, tokenizer, folder, record)
    log.info("done: %d steps, %d tokens, %.0f cpu_s", record["steps"], record["tokens"], record["cpu_s"])
    return record


def main() -> None:
    """Run from the command line."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, help="default: the committed pretrain.json")
    parser.add_argument("--stop", type=int, help="stop after this step")
    parser.add_argument("--checkpoint-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    pretrain(read_recipe(given.recipe), given.folder, stop=given.stop, checkpoint_every=given.checkpoint_every)


if __name__ == "__main__":
    main()
