"""LoRA on a CPU: arislab's trainer beside plain TRL, on a real checkpoint and the same rows.

``python tests/bench/real_training.py FOLDER [--n 32] [--epochs 1]`` trains both on the first sentences of
data/sample/skillspan.jsonl.gz with the experts' terms as answers, one thread each, and prints tokens (prompt and
answer, without padding) per CPU second of ``train()``, the loss over the answers' tokens, and the ratio. TRL gets
prompt and completion and does the rest by its own defaults; rank, rate, schedule, batch and seed are the same, the
order of rows is not.
"""

import argparse
import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]


def chats(n: int) -> list[list[dict[str, str]]]:
    """The first sentences, asked as the task asks them, with the experts' answer."""
    from arislab.task import load

    task = load("key_terms")
    path = CHECKOUT / "data" / "sample" / "skillspan.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()[:n]
    rows = [json.loads(line) for line in lines]
    return [
        [*task.to_messages({"profile": row}), {"role": "assistant", "content": ", ".join(row["gold"])}] for row in rows
    ]


def trainer_of(engine: str, given: argparse.Namespace, work: Path) -> tuple[Any, int]:
    """The trainer, and the tokens of an epoch."""
    import polars as pl
    import transformers

    from arislab.finetune import Settings, load_tokenizer, tokenize
    from arislab.finetune.trainer import new_trainer

    settings = Settings(
        base_model=given.folder, folder=work, num_train_epochs=given.epochs, batch_size=8, learning_rate=1e-3
    )
    transformers.set_seed(1)
    tokenizer, messages = load_tokenizer(given.folder), chats(given.n)
    rows = [{"id": str(i), "messages": json.dumps(m[:-1]), "output": m[-1]["content"]} for i, m in enumerate(messages)]
    examples = tokenize(pl.DataFrame(rows), tokenizer)
    assert set(examples["status"]) == {"ok"}
    n_tokens = int(examples["input_ids"].list.len().sum())
    numbers = {**settings.numbers, "backend": "trl", "seed": 1}
    if engine == "arislab":
        spec = {"settings": numbers, "device": "cpu", "base_model": str(given.folder)}
        return new_trainer(spec, tokenizer, examples, work), n_tokens
    import datasets
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    pairs = [{"prompt": m[:-1], "completion": m[-1:]} for m in messages]
    arguments = SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=8,
        num_train_epochs=given.epochs,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        seed=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    target = LoraConfig(
        r=numbers["r"], lora_alpha=numbers["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32)
    data = datasets.Dataset.from_list(pairs)
    return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, peft_config=target), n_tokens


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Train once: tokens, CPU seconds, mean loss of the last epoch's logged steps."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(sys.stderr):
        trainer, n_tokens = trainer_of(given.engine, given, Path(work))
        begin = time.process_time()
        result = trainer.train()
        cpu_s = time.process_time() - begin
    return {"tokens": n_tokens * given.epochs, "cpu_s": cpu_s, "loss": result.training_loss}


def main() -> None:
    """Print a line for each trainer, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--engine")
    given = parser.parse_args()
    if given.engine:
        print(json.dumps(measure(given)))
        return
    speed = {}
    for engine in ("arislab", "trl"):
        words = [given.folder, "--n", given.n, "--epochs", given.epochs, "--engine", engine]
        command = [sys.executable, __file__, *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        r = json.loads(done.stdout.splitlines()[-1])
        speed[engine] = r["tokens"] / r["cpu_s"]
        print(f"{engine}: {r['tokens']} tokens, {r['cpu_s']:.1f} CPU s: {speed[engine]:.0f} a CPU second", end="; ")
        print(f"mean training loss {r['loss']:.3f}", flush=True)
    print(f"arislab / trl: speed {speed['arislab'] / speed['trl']:.2f}")


if __name__ == "__main__":
    main()
