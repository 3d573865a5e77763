"""LoRA on a CPU: arislab's trainer beside TRL 1.16 and 1.14.2 and Unsloth, on the same token ids.

``python tests/bench/finetune.py ENVIRONMENTS [--model FOLDER] [--supervised 0.2 0.5] [--shared 0] [--rounds 2]`` trains
each arm in a process of its own, one thread each, in turns, and prints for each tokens per CPU second (of ``train()``
whole, and of its steps after the first, in which arislab compares its loss with the trainer's), peak memory, and how
far its losses are from those of TRL 1.16; then the ratios. All arms get the same ids and labels in the same order, rank
8, rate 1e-3, batches of 2, float32 (but ``bf16-lora``), no gradient checkpointing.

Without FOLDER the model has the shape of Gemma-3-270M (262,144 words), random weights, and rows of 256 random tokens,
of which the last --supervised share is trained and the first --shared tokens are the same in all. With FOLDER, a
checkpoint, the rows are sentences of data/sample/skillspan.jsonl.gz and the experts' terms; the shares are theirs.
The first call writes environments of TRL 1.14.2 (beside this one) and of Unsloth into the folder ENVIRONMENTS.
"""

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
BATCH, LENGTH, RANK, ALPHA, RATE, SEED = 2, 256, 8, 16, 1e-3, 1
NEEDS = {"trl 1.14.2": ["--no-deps", "trl==1.14.2"], "unsloth": ["unsloth>=2026.8", "trl==1.14.2", "torch==2.13.0"]}
"""Arms that need an environment of their own, and what is installed there."""
ARMS = ("trl 1.16", "trl 1.14.2", "unsloth", "arislab lora", "arislab bf16-lora")


def python_of(arm: str, environments: Path) -> str:
    """The interpreter of an arm, whose environment is made if there is none."""
    if arm not in NEEDS:
        return sys.executable
    folder = environments / arm.replace(" ", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        if "--no-deps" in NEEDS[arm]:  # all but TRL is that of this environment
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "beside.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
        subprocess.run([python, "-m", "pip", "install", "-q", *NEEDS[arm]], check=True)
        if arm == "unsloth":  # its torchvision is for CUDA, and does not load beside a torch for CPUs
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        (folder / "ready").touch()
    return str(python)


def made_up(folder: Path, n: int, supervised: float, shared: int) -> list[dict[str, list[int]]]:
    """Write a model of Gemma-3-270M's shape; return rows of random tokens."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = Gemma3TextConfig(
            vocab_size=262_144,
            hidden_size=640,
            intermediate_size=2048,
            num_hidden_layers=18,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            sliding_window=512,
            layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
        )
        Gemma3ForCausalLM(config).save_pretrained(folder)
        for path in (CHECKOUT / "arislab" / "tiny" / "model").iterdir():
            if path.name.startswith(("tokenizer", "chat_template")):  # nothing is tokenized, but trainers want one
                shutil.copy(path, folder)
    dice, n_prompt = random.Random(SEED), LENGTH - round(LENGTH * supervised)
    begin = [dice.randrange(10, 262_000) for _ in range(shared)]
    rows = [begin + [dice.randrange(10, 262_000) for _ in range(LENGTH - shared)] for _ in range(n)]
    return [{"input_ids": ids, "labels": [-100] * n_prompt + ids[n_prompt:]} for ids in rows]


def sentences(folder: Path, n: int) -> list[dict[str, list[int]]]:
    """The first sentences of the sample, asked as the task asks them, with the experts' terms as answers."""
    import polars as pl

    from arislab.finetune import tokenize
    from arislab.task import load

    task, path = load("key_terms"), CHECKOUT / "data" / "sample" / "skillspan.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()[:n]]
    examples = [
        {"id": str(i), "messages": json.dumps(task.to_messages({"profile": row})), "output": ", ".join(row["gold"])}
        for i, row in enumerate(rows)
    ]
    return tokenize(pl.DataFrame(examples), str(folder)).select("input_ids", "labels").to_dicts()


def trainer_of(arm: str, folder: Path, rows: list[dict[str, Any]], work: Path) -> Any:
    """The trainer of an arm; Unsloth must be imported before the others."""
    if arm.startswith("arislab"):
        import polars as pl
        import transformers

        from arislab.finetune import Settings, load_tokenizer
        from arislab.finetune.trainer import new_trainer

        settings = Settings(
            base_model=folder, folder=work, num_train_epochs=1, batch_size=BATCH, learning_rate=RATE,
            r=RANK, lora_alpha=ALPHA, seed=SEED, method=arm.split()[1],
        )  # fmt: skip
        transformers.set_seed(SEED)
        spec = {"settings": {**settings.numbers, "backend": "trl"}, "device": "cpu", "base_model": str(folder)}
        return new_trainer(spec, load_tokenizer(folder), pl.DataFrame(rows), work)
    if arm == "unsloth":
        from unsloth import FastLanguageModel
    import datasets
    import torch
    import transformers
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    transformers.set_seed(SEED)
    peft_config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if arm == "unsloth":
        model, _ = FastLanguageModel.from_pretrained(
            str(folder), max_seq_length=1024, dtype=torch.float32, load_in_4bit=False
        )
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = FastLanguageModel.get_peft_model(
            model, r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0, random_state=SEED,
            use_gradient_checkpointing=False,
        )  # fmt: skip
        peft_config = None
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    arguments = SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(0.03 * -(-len(rows) // BATCH))),
        weight_decay=0.0,
        seed=SEED,
        logging_steps=1,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
    )
    data = datasets.Dataset.from_list(rows)
    return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, peft_config=peft_config)


def measure(arm: str, folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Train once: losses of the steps, CPU seconds at the end of each, peak memory."""
    with tempfile.TemporaryDirectory() as work:
        trainer = trainer_of(arm, folder, rows, Path(work))
        import torch
        from transformers import TrainerCallback

        torch.set_num_threads(1)
        losses, ends = [], []

        class Clock(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **_):
                if logs and "loss" in logs:
                    losses.append(float(logs["loss"]))
                    ends.append(time.process_time())

        trainer.add_callback(Clock())
        begin = time.process_time()
        trainer.train()
        whole = time.process_time() - begin
    n_tokens = sum(len(row["input_ids"]) for row in rows)
    later = sum(len(row["input_ids"]) for row in rows) * (1 - 1 / len(ends)) / (ends[-1] - ends[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"whole": n_tokens / whole, "later": later, "peak_gib": peak, "losses": losses}


def compare(given: argparse.Namespace, model: Path, rows: list[dict[str, Any]], about: str) -> None:
    """Run the arms in turns; print a line for each, and the ratios."""
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in given.arms}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.json"
        data.write_text(json.dumps(rows))
        for turn in range(given.rounds):
            for arm in given.arms if turn % 2 == 0 else reversed(given.arms):
                command = [python_of(arm, given.environments), __file__, given.environments, "--arm", arm]
                done = subprocess.run(
                    [*map(str, command), "--model", str(model), "--rows", str(data)],
                    env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(f"{arm}: {done.stderr[-2000:]}")
                results[arm].append(json.loads(done.stdout.splitlines()[-1]))
    first = results[given.arms[0]][0]["losses"]
    n_trained = sum(label != -100 for row in rows for label in row["labels"])
    n = sum(len(row["input_ids"]) for row in rows)
    print(f"{about}: {len(rows)} rows, {n:,} tokens, {n_trained / n:.0%} trained; load {os.getloadavg()[0]:.1f}")
    for arm, each in results.items():
        whole, later = ([one[name] for one in each] for name in ("whole", "later"))
        apart = max(abs(a - b) for one in each for a, b in zip(one["losses"], first, strict=True))
        ratios = [mine["later"] / other["later"] for mine, other in zip(each, results[given.arms[0]], strict=True)]
        print(
            f"  {arm:18} {statistics.median(later):6.1f} tokens a CPU second [{min(later):.1f}, {max(later):.1f}], "
            f"whole {statistics.median(whole):6.1f}; {max(one['peak_gib'] for one in each):.2f} GiB; "
            f"losses within {apart:.1e}; x {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
            flush=True,
        )


def main() -> None:
    """Measure one arm in this process, or all, each in its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--supervised", nargs="+", type=float, default=[0.2, 0.5])
    parser.add_argument("--shared", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(measure(given.arm, given.model, json.loads(given.rows.read_text()))))
    elif given.model:
        compare(given, given.model, sentences(given.model, BATCH * given.steps), given.model.name)
    else:
        given.environments.mkdir(parents=True, exist_ok=True)
        model = given.environments / "gemma-3-270m-shape"
        for share in given.supervised:
            rows = made_up(model, BATCH * given.steps, share, given.shared)
            compare(given, model, rows, f"Gemma-3-270M shape, {given.shared} of {LENGTH} tokens common to all rows")


if __name__ == "__main__":
    main()
