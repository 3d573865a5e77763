"""The in-process engine beside ``generate`` of transformers, on a real Llama checkpoint.

``python tests/bench/real_model.py FOLDER [--n 32] [--rounds 1] [--cases zero-shot 5-shot]`` asks both for greedy
answers to the same prompts, zero-shot and with five examples that all share, one thread each, and prints answer tokens
per CPU second, peak memory of a process that does nothing else, their ratios (of several rounds the geometric mean with
its 95 % interval), and how many texts are equal. Of the engine's memory it prints what is above that of an idle engine
(the embedded model's, after an answer), beside 1.2 times the weights' bytes and the room of keys and values.

``--dtype`` is that of transformers; with bfloat16 weights the engine keeps sums in float32 and transformers does not,
so that some texts differ. CPU seconds are without loading. transformers gets batches of 32, padded to their longest
prompt.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CASES = {"zero-shot": 0, "5-shot": 5}
BATCH = 32


def measured(engine: str, case: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one engine on one case in a process of its own."""
    words = [given.folder, "--n", given.n, "--max-tokens", given.max_tokens, "--dtype", given.dtype]
    command = [sys.executable, __file__, *map(str, words), "--engine", engine, "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Answer the prompts of one case: texts, tokens, CPU seconds, peak bytes, bytes once loaded."""
    import torch
    from toys import chats

    torch.set_num_threads(1)
    prompts = chats(given.n, CASES[given.case])
    answer = ours if given.engine == "arislab" else theirs
    memory, (texts, n_tokens, n_prompt, cpu_s) = answer(prompts, given)
    return memory | {
        "texts": texts,
        "n_tokens": n_tokens,
        "n_prompt": n_prompt,
        "cpu_s": cpu_s,
        "peak": resident("VmHWM"),
    }


def resident(name: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def ours(prompts: list[Any], given: argparse.Namespace) -> tuple[dict[str, int], tuple[list[str], int, int, float]]:
    """The answers of the engine, and its memory: idle, once loaded, and what it may take beside."""
    from arislab.tiny.decoder import Engine, Request
    from arislab.tiny.llama import Llama

    tiny = Engine()
    tiny.generate([Request(prompts[0], tiny.base, temperature=0.0, max_tokens=2)])
    idle, empty = resident("VmRSS"), Llama.empty
    prefixes, batches = [0], [0]

    def counted(model: Llama, n_rows: int, n_slots: int) -> Any:
        (prefixes if n_rows == 1 else batches).append(model.bytes_of(n_rows * n_slots, 0))
        return empty(model, n_rows, n_slots)

    Llama.empty = counted  # type: ignore[method-assign]
    engine = Engine(given.folder)
    memory = {"idle": idle, "loaded": resident("VmRSS"), "weights": engine.weights.n_bytes}
    begin = time.process_time()
    asked = [Request(p, engine.base, temperature=0.0, max_tokens=given.max_tokens) for p in prompts]
    answers = engine.generate(asked)
    cpu_s = time.process_time() - begin
    n_prompt = sum(a.prompt_tokens for a in answers)
    memory["kept"] = max(prefixes) + max(batches)
    return memory, ([a.text for a in answers], sum(a.completion_tokens for a in answers), n_prompt, cpu_s)


def theirs(prompts: list[Any], given: argparse.Namespace) -> tuple[dict[str, int], tuple[list[str], int, int, float]]:
    """The answers of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given.folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(given.folder, dtype=getattr(torch, given.dtype)).eval()
    memory = {"loaded": resident("VmRSS")}
    ends = model.generation_config.eos_token_id
    texts, n_tokens, n_prompt, begin = [], 0, 0, time.process_time()
    for i in range(0, len(prompts), BATCH):
        rendered = [
            tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts[i : i + BATCH]
        ]
        batch = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
        n_prompt += int(batch["attention_mask"].sum())
        with torch.inference_mode():
            out = model.generate(
                **batch, max_new_tokens=given.max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            stops = [place for place, token in enumerate(row) if token in (ends if isinstance(ends, list) else [ends])]
            written = row[: stops[0] + 1] if stops else row
            n_tokens += len(written)
            texts.append(tokenizer.decode(written, skip_special_tokens=True))
    return memory, (texts, n_tokens, n_prompt, time.process_time() - begin)


def main() -> None:
    """Print a line for each case and engine, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--engine")
    parser.add_argument("--case")
    given = parser.parse_args()
    if given.engine:
        print(json.dumps(run(given)))
        return
    for case in given.cases:
        ratios = [compared(case, given, i) for i in range(given.rounds)]
        if given.rounds > 1:
            logs = [math.log(ratio) for ratio in ratios]
            half = stats.t.ppf(0.975, given.rounds - 1) * statistics.stdev(logs) / math.sqrt(given.rounds)
            low, mean, high = (math.exp(statistics.mean(logs) + d) for d in (-half, 0, half))
            print(f"{case}: speed {mean:.2f} [{low:.2f}, {high:.2f}] of {given.rounds} rounds", flush=True)


def compared(case: str, given: argparse.Namespace, i: int) -> float:
    """Print what both engines did, in turns who is first; return the ratio of their speeds."""
    engines = ("arislab", "transformers")[:: -1 if i % 2 else 1]
    results = {engine: measured(engine, case, given) for engine in engines}
    for engine, r in results.items():
        print(
            f"{case}: {engine}: {r['n_prompt']} prompt tokens, {r['n_tokens']} answer tokens, {r['cpu_s']:.1f} CPU "
            f"s: {r['n_tokens'] / r['cpu_s']:.0f} a CPU second; {r['loaded'] / 1e6:.0f} MB loaded, "
            f"{r['peak'] / 1e6:.0f} MB at most",
            flush=True,
        )
    own, stock = results["arislab"], results["transformers"]
    equal = sum(a == b for a, b in zip(own["texts"], stock["texts"], strict=True))
    speed: float = (own["n_tokens"] / own["cpu_s"]) / (stock["n_tokens"] / stock["cpu_s"])
    above, most = own["peak"] - own["idle"], 1.2 * own["weights"] + own["kept"]
    print(
        f"{case}: arislab / transformers: speed {speed:.2f}, peak memory {own['peak'] / stock['peak']:.2f}, "
        f"equal texts {equal} of {given.n}; {above / 1e6:.0f} MB above an idle engine, goal {most / 1e6:.0f}",
        flush=True,
    )
    return speed


if __name__ == "__main__":
    main()
