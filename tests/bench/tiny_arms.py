"""Measure what the embedded model does with examples: python tests/bench/tiny_arms.py [--n 400] [--lora]

Prints JSON: for each arm the mean quality by the default task's scorers on the same fresh profiles, with a 95 % normal
interval over profiles, and the paired difference to the zero-shot baseline. --lora trains on the best and on a random
fifth of the pool, and adds these arms.
"""

import argparse
import inspect
import json
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np
import polars as pl

from arislab import task as tasks
from arislab.tiny.decoder import MODEL_DIR, Engine, Request
from arislab.tiny.grammar import make_profile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", type=Path, default=MODEL_DIR)
parser.add_argument("--n", type=int, default=400)
parser.add_argument("--pool", type=int, default=2500)
parser.add_argument("--sets", type=int, default=20, help="example sets an arm; they share the profiles in equal blocks")
parser.add_argument("--temperature", type=float, default=0.9)
parser.add_argument("--seed", type=int, default=271828)
parser.add_argument("--lora", action="store_true")
given = parser.parse_args()

task = tasks.load("candidate_evaluation")
columns = {name: list(inspect.signature(scorer).parameters) for name, scorer in task.scorers.items()}
weights = np.array([task.weights[name] for name in task.scorers])


def profiles(n, seed):
    rng = Random(f"measure-{seed}")
    return [make_profile(rng) for _ in range(n)]


def messages(profile, examples=()):
    chat = task.to_messages({"profile": profile})
    shots = []
    for example, output in examples:
        shots += [task.to_messages({"profile": example})[-1], {"role": "assistant", "content": output}]
    return [chat[0], *shots, chat[-1]]


def scores(profile, output):
    row = {"profile": profile, "output": output}
    return [float(task.scorers[name](**{c: row[c] for c in columns[name]})) for name in task.scorers]


def answers(engine, chats, model, seed):
    requests = [
        Request(chat, model, temperature=given.temperature, max_tokens=160, seed=seed * 1_000_003 + i)
        for i, chat in enumerate(chats)
    ]
    return engine.generate(requests)


def quality(engine, these, sets, model, seed=1):
    block = len(these) // len(sets)
    chats = [messages(p, sets[min(i // block, len(sets) - 1)]) for i, p in enumerate(these)]
    texts = answers(engine, chats, model, seed)
    return np.array([scores(p, a.text) for p, a in zip(these, texts, strict=True)]), texts


def half_width(values):
    return round(float(1.96 * values.std(ddof=1) / len(values) ** 0.5), 3)


began = time.process_time()
engine = Engine(given.model)
pool_profiles, test = profiles(given.pool, given.seed + 1), profiles(given.n, given.seed)
table, pooled = quality(engine, pool_profiles, [()], engine.base, seed=2)
pool_quality = table @ weights / weights.sum()
pool_s = time.process_time() - began
rng = Random(given.seed)
order = sorted(range(given.pool), key=lambda i: (-pool_quality[i], rng.random()))
best = order[: given.pool // 5]
poor = [i for i in range(given.pool) if pool_quality[i] < 0.5]


def example_sets(indices, k):
    return [[(pool_profiles[i], pooled[i].text) for i in rng.sample(indices, k)] for _ in range(given.sets)]


approved = example_sets(best, 5)
arms = {
    "baseline": ([()], engine.base),
    "icl, approved, k=1": ([s[:1] for s in approved], engine.base),
    "icl, approved, k=3": ([s[:3] for s in approved], engine.base),
    "icl, approved, k=5": (approved, engine.base),
    "icl, poor, k=5": (example_sets(poor, 5), engine.base),
}
if given.lora:
    from arislab import finetune

    def examples(indices):
        return pl.DataFrame(
            {
                "id": [str(i) for i in indices],
                "messages": [json.dumps(messages(pool_profiles[i])) for i in indices],
                "output": [pooled[i].text for i in indices],
            }
        )

    folder = Path(tempfile.mkdtemp())
    chance = rng.sample(range(given.pool), given.pool // 5)
    sets = {"curated": examples(best), "control": examples(chance)}
    made = finetune.train(sets, validation=None, base_model=given.model, folder=folder, workers=1)
    engine = Engine(given.model, adapters_dir=Path(made["model_path"][0]).parent)
    for row in made.iter_rows(named=True):
        arms[f"lora, {row['arm']}"] = ([()], Path(row["model_path"]).name)
    arms["lora, curated + icl, k=5"] = (approved, Path(made.row(0, named=True)["model_path"]).name)

rows, measured = [], {}
for name, (sets, model) in arms.items():
    began = time.process_time()
    table, replies = quality(engine, test, sets, model)
    value = measured[name] = table @ weights / weights.sum()
    gain = value - measured["baseline"]
    rows.append(
        {
            "arm": name,
            "n": len(value),
            "mean": round(float(value.mean()), 3),
            "interval": half_width(value),
            "gain": round(float(gain.mean()), 3),
            "gain_interval": half_width(gain),
            "zero": round(float((value == 0).mean()), 2),
            "above_0.9": round(float((value > 0.9).mean()), 2),
            "prompt_tokens": round(float(np.mean([a.prompt_tokens for a in given]))),
            "tokens_per_cpu_s": round(sum(a.completion_tokens for a in replies) / (time.process_time() - began)),
            "scorers": dict(zip(task.scorers, table.mean(0).round(2).tolist(), strict=True)),
        }
    )
    print(rows[-1]["arm"], rows[-1]["mean"], "±", rows[-1]["interval"], rows[-1]["scorers"], flush=True)
pool = {
    "n": given.pool,
    "mean": round(float(pool_quality.mean()), 3),
    "approved_min": round(float(pool_quality[best[-1]]), 3),
}
print(
    json.dumps(
        {
            "model": engine.base,
            "temperature": given.temperature,
            "pool": pool | {"cpu_s": round(pool_s, 1)},
            "arms": rows,
        }
    )
)
