"""Fine-tune: examples to token labels that are proven row by row, and LoRA adapters that are named by their content.

An example, one row of what every function here reads:

    id        "r-5f0c…"                                  unique in its set
    messages  '[{"role": "system", "content": "Evaluate …"}, {"role": "user", "content": "Title: Nurse …"}]'
    output    '{"strengths": [], "score": 0.41}'         the assistant's answer: the only text that is trained

Each set of examples is trained by TRL + PEFT in a process of its own (`arislab.finetune.worker`), on token ids and
labels that are built and checked
here: TRL neither renders, nor masks, nor cuts. An adapter is a folder
`<name>-<arm>-<first 12 hex of its weights' sha256>`: written beside its final place, renamed once, never changed. That
folder name is the model name under which the embedded server and vLLM serve it.

What it does not know: nothing here was run on a GPU. `backend="unsloth"` and `method="qlora"` were run on a CPU; the
tests run them where the packages are installed, else they skip. Training that was killed starts again from its first
step. One process uses one device.
"""

import collections
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.errors import ParameterError, PrerequisiteError, TrainingError, closest
from arislab.finetune.labels import (
    STATUSES,
    ChatTemplate,
    Preview,
    check_template,
    columns_of,
    count_statuses,
    load_tokenizer,
    preview,
    tokenize,
)
from arislab.finetune.weights import compute_device, require, resolve_model
from arislab.system import files

__all__ = [
    "STATUSES",
    "ChatTemplate",
    "Preview",
    "asked_as",
    "check",
    "check_template",
    "compute_device",
    "count_statuses",
    "export_jsonl",
    "load_tokenizer",
    "losses",
    "preview",
    "resolve_model",
    "rows",
    "tokenize",
    "train",
]

logger = logging.getLogger("arislab.finetune")

METHODS = ("lora", "qlora")
BACKENDS = ("auto", "trl", "unsloth")
COLUMNS = [
    "id",
    "name",
    "arm",
    "base_model",
    "method",
    "training_examples",
    "train_loss",
    "eval_loss",
    "model_path",
    "hyperparameters",
    "adapter_sha256",
    "seconds",
    "device",
    "losses",
    "left_out",
]
NUMBERS = {"training_examples": pl.Int64, "train_loss": pl.Float64, "eval_loss": pl.Float64, "seconds": pl.Float64}
TRAINING_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


def export_jsonl(examples: pl.DataFrame, path: str | Path) -> int:
    """Write examples as chat JSONL, the format that fine-tuning services and trainers share.

    Args:
        examples: columns messages (JSON list) and output (String); tools and tool_calls, if present: see `tokenize`.
        path: written to a temporary file beside it, then renamed: a reader sees the old file or the whole new one.

    Returns:
        The number of lines, one per example: ``{"messages": [system, user, assistant]}``, and with ``"tools": […]``
        where some were offered. An answer that calls tools is
        ``{"role": "assistant", "content": null, "tool_calls": […]}``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.written(path) as file:
        for row in examples.iter_rows(named=True):
            answer = chat.answer(row["output"], row.get("tool_calls"))
            line = {"messages": [*json.loads(row["messages"]), answer]}
            line |= {"tools": json.loads(row["tools"])} if row.get("tools") else {}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    return examples.height


# Training: one process per set


def train(
    sets: Mapping[str, pl.DataFrame],
    validation: pl.DataFrame | None,
    *,
    base_model: str | Path,
    folder: str | Path,
    method: str = "lora",
    r: int = 8,
    lora_alpha: int = 16,
    learning_rate: float = 2e-3,
    num_train_epochs: float = 3,
    batch_size: int = 16,
    gradient_accumulation_steps: int = 1,
    max_length: int = 512,
    seed: int = 0,
    name: str = "adapter",
    workers: int | None = None,
    backend: str = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Train one LoRA adapter per set, each in a process of its own, all with the same settings.

    Rows are ordered by id before training, so the order of a frame changes nothing. On a CPU the same rows, settings,
    seed and versions give the same adapter, bit for bit.

    Args:
        sets: arm -> examples (columns id, messages, output), such as ``{"curated": …, "control": …}``.
        validation: examples of no set, scored before, three times during, and after training; None: not scored.
        base_model: a model folder, ``"tiny"``, or the name of a model in the local Hugging Face cache; nothing is
            downloaded.
        folder: where the adapters' folders go.
        method: ``"lora"``, or ``"qlora"`` (base in 4-bit NF4 by bitsandbytes).
        r: rank of the adapters, on all linear layers but the output head; vLLM serves up to 16 by default.
        lora_alpha: the update is scaled by lora_alpha / r.
        learning_rate: its peak, after a warm-up over 3 % of the steps; then a cosine to 0. About ten times that of full
            training.
        num_train_epochs: passes over each set.
        batch_size: examples per optimizer step.
        gradient_accumulation_steps: compute each batch in this many parts, for less memory.
        max_length: tokens, prompt and answer together; a longer example is not trained, never cut.
        seed: of the adapter's first weights and of the order of examples.
        name: an adapter's folder is called <name>-<arm>-<hash>.
        workers: processes at once; default 2 (1 on a single core) on a CPU, 1 on a GPU.
        backend: ``"trl"``, ``"unsloth"``, or ``"auto"``: unsloth where a GPU and unsloth are, else trl.
        chat_template_kwargs: see `tokenize`.

    Returns:
        One row per set: id (the same for the same inputs), name, arm, base_model, method, training_examples, train_loss
        (nats per trained token, mean of the last epoch), eval_loss (the same over `validation`, at the end; null
        without), model_path, hyperparameters (JSON; its `rows` counts the set's examples by status, their sum is the
        set's height), adapter_sha256 (of the weights file), seconds (wall, start-up included), device, losses (JSON,
        see `losses`), left_out (JSON: id to status of the set's examples that were not trained on).

    Raises:
        TrainingError: a set or `validation` has no usable row, they share an id, or a training process failed.
        ParameterError: a setting that is unknown or out of range.
        PrerequisiteError: a package or the base model is missing.
    """
    settings: dict[str, Any] = {"method": method, "backend": backend, "r": r, "lora_alpha": lora_alpha, "seed": seed}
    settings |= {"learning_rate": learning_rate, "num_train_epochs": num_train_epochs, "max_length": max_length}
    settings |= {"batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    if not sets:
        raise ParameterError('sets is empty; give at least one, such as {"curated": examples}.')
    folder, kwargs = Path(folder).resolve(), chat_template_kwargs
    template = check(base_model, folder=folder, name=name, arms=tuple(sets), chat_template_kwargs=kwargs, **settings)
    base = resolve_model(base_model)
    device, _ = compute_device()
    settings["backend"] = _backend(backend, method, device)
    if workers is None:
        workers = 1 if device == "cuda" else min(2, os.cpu_count() or 1)
    if workers < 1:
        raise ParameterError(f"workers must be at least 1, got {workers!r}.")
    for arm, examples in sets.items():
        _check_examples(arm, examples, validation)
    _check_lengths({**sets, **({} if validation is None else {"validation": validation})}, base, template, max_length)
    folder.mkdir(parents=True, exist_ok=True)
    spec: dict[str, Any] = {
        "name": name,
        "base_model": str(base.resolve()),
        "folder": str(folder),
        "device": device,
        "settings": settings,
    }
    spec |= {"chat_template_kwargs": dict(template.chat_template_kwargs), "system_role": template.system_role}
    spec |= {"parent_pid": os.getpid()}
    children = [_Child(arm, examples, validation, spec) for arm, examples in sets.items()]
    try:
        _supervise(children, workers)
    finally:
        for child in children:
            child.close()
    columns = {name: NUMBERS.get(name, pl.String) for name in COLUMNS}
    return pl.DataFrame([child.row for child in children], schema=columns)  # one row per set


def check(
    base_model: str | Path,
    *,
    folder: str | Path,
    name: str = "adapter",
    arms: Sequence[str] = ("curated", "control"),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    method: str = "lora",
    backend: str = "auto",
    r: int = 8,
    lora_alpha: int = 16,
    learning_rate: float = 2e-3,
    num_train_epochs: float = 3,
    batch_size: int = 16,
    gradient_accumulation_steps: int = 1,
    max_length: int = 512,
    seed: int = 0,
) -> ChatTemplate:
    """Refuse what `train` could not do, before anything is read, and return what the model's chat template asks of training and serving.

    Args:
        base_model: As in `train`.
        folder: As in `train`; its disk must have room for the adapters.
        name: As in `train`.
        arms: Names of the sets.
        chat_template_kwargs: As in `tokenize`.
        method: As in `train`; so are all further settings.
        backend: As in `train`.
        r: As in `train`.
        lora_alpha: As in `train`.
        learning_rate: As in `train`.
        num_train_epochs: As in `train`.
        batch_size: As in `train`.
        gradient_accumulation_steps: As in `train`.
        max_length: As in `train`; not more than the model's context.
        seed: As in `train`.

    Raises:
        ParameterError: a setting that is unknown or out of range.
        PrerequisiteError: a package or the base model is missing, its chat template cannot be trained and served alike,
            or the disk is full.
    """
    settings = {"method": method, "backend": backend, "r": r, "lora_alpha": lora_alpha, "seed": seed}
    settings |= {"learning_rate": learning_rate, "num_train_epochs": num_train_epochs, "max_length": max_length}
    settings |= {"batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    _check_settings(settings, [name, *arms])
    require("fine-tuning", 'pip install -e ".[train]"', *TRAINING_PACKAGES)
    base = resolve_model(base_model)
    _backend(backend, method, compute_device()[0])
    config = json.loads((base / "config.json").read_text("utf-8"))
    context = config.get("max_position_embeddings")
    if isinstance(context, int) and max_length > context:
        raise ParameterError(
            f"max_length must be at most {context}, the context of {base_model}, got {max_length}; servers refuse what is longer."
        )
    template = check_template(base, chat_template_kwargs=chat_template_kwargs)
    _check_disk(Path(folder), base, r * len(arms))
    return template


def asked_as(tuned: Mapping[str, Any], *others: str | None, chat_template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with which the arms of an evaluation must be asked: those with which the adapter was trained.

    Args:
        tuned: A row of ``finetuning_runs``.
        others: Records of the arms beside it, as JSON: hyperparameters of another adapter, params of an example set;
            null in older rows.
        chat_template_kwargs: What the caller wants; empty: as recorded.

    Raises:
        ParameterError: The caller wants another, or an arm beside it was made with another.
    """
    trained = json.loads(tuned["hyperparameters"] or "{}")
    recorded = trained.get("chat_template_kwargs") or {}
    mine, wanted = _chosen(recorded), _chosen(chat_template_kwargs)
    if wanted and wanted != mine:
        raise ParameterError(
            f"chat_template_kwargs must be {mine!r}, with which {tuned['model_path']} was trained, got {wanted!r}; leave it out, or train with it."
        )
    for other in others:
        theirs = _chosen(json.loads(other or "{}").get("chat_template_kwargs") or {})
        if theirs != mine:
            raise ParameterError(
                f"{tuned['model_path']} was trained with chat_template_kwargs {mine!r}, and an arm beside it was made with {theirs!r}; run phases 3 "
                f"and 4 with the same, such as -p chat_template_kwargs '{json.dumps(mine or theirs)}'."
            )
    return chat.fields(chat_template_kwargs=recorded, system_role=trained.get("system_role", ""))


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the date, which `train` adds where a template takes one."""
    return {name: value for name, value in given.items() if name != chat.DATE}


def losses(trained: pl.DataFrame) -> pl.DataFrame:
    """Return the loss curves of what `train` returned.

    Columns arm, step, train_loss and eval_loss (nats per trained token).

    One row per step at which something was measured; the loss that was not is null. train_loss is the mean since the
    row before.
    """
    columns = {"arm": pl.String, "step": pl.Int64, "train_loss": pl.Float64, "eval_loss": pl.Float64}
    rows = [
        {"arm": arm, **row} for arm, curve in trained.select("arm", "losses").iter_rows() for row in json.loads(curve)
    ]
    return pl.DataFrame(rows, schema=columns)


def rows(trained: pl.DataFrame, sets: Mapping[str, pl.DataFrame], validation: pl.DataFrame | None) -> pl.DataFrame:
    """Return what each adapter learned from, in the columns of ``training_rows``.

    Args:
        trained: What ``train`` returned.
        sets: What it was given: arm -> examples (reads id).
        validation: What it was given (reads id).

    Returns:
        One row per adapter and example: model_path, arm, id, role (trained; held out: scored for the loss, not learned
        from; or one of
        ``STATUSES``: why it was left out).
    """
    parts = []
    for arm, path, left_out in trained.select("arm", "model_path", "left_out").iter_rows():
        role = pl.col("id").replace_strict(json.loads(left_out), default="trained", return_dtype=pl.String)
        learned = sets[arm].select("id", role=role)
        held = [] if validation is None else [validation.select("id", role=pl.lit("held out"))]
        both = pl.concat([learned, *held]).select(
            pl.lit(path).alias("model_path"), pl.lit(arm).alias("arm"), "id", "role"
        )
        parts.append(both)
    return pl.concat(parts)


_WHOLE = {
    "r": (1, 512),  # vLLM serves no higher rank
    "lora_alpha": (1, 65_536),
    "batch_size": (1, 65_536),
    "gradient_accumulation_steps": (1, 65_536),
    "max_length": (1, 2**24),
    "seed": (0, 2**32 - 1),
}


def _check_settings(settings: Mapping[str, Any], names: Sequence[str]) -> None:
    for key, known in (("method", METHODS), ("backend", BACKENDS)):
        if settings[key] not in known:
            raise ParameterError(f"{key} {settings[key]!r} is not known; {closest(str(settings[key]), known)}.")
    for key, (low, high) in _WHOLE.items():
        value = settings[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ParameterError(f"{key} must be a whole number from {low}, got {value!r}; the most is {high:,}.")
    for key, most in (("learning_rate", 1), ("num_train_epochs", 100_000)):
        value = settings[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise ParameterError(f"{key} must be a number above 0, got {value!r}; the most is {most:,}.")
    batch_size, parts = settings["batch_size"], settings["gradient_accumulation_steps"]
    if batch_size % parts:
        raise ParameterError(f"gradient_accumulation_steps must divide batch_size {batch_size}, got {parts}.")
    for part in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", part):
            raise ParameterError(f"{part!r} becomes part of a model name; use letters, digits, '.', '_' and '-'.")


def _check_lengths(sets: Mapping[str, pl.DataFrame], base: Path, template: ChatTemplate, max_length: int) -> None:
    """Refuse a set of which no example can be trained; the children would find out one after the other."""
    tokenizer = load_tokenizer(base)
    for arm, examples in sets.items():
        tokenized = tokenize(
            examples, tokenizer, max_length=max_length, chat_template_kwargs=template.chat_template_kwargs
        )
        if not tokenized["status"].is_in(["ok"]).any():
            reasons = tokenized["reason"].drop_nulls().unique(maintain_order=True).head(3).to_list()
            raise TrainingError(
                f"none of the {tokenized.height} examples of set {arm!r} can be used: {count_statuses(tokenized)}; first reasons: {reasons}. "
                "Nothing was trained."
            )


def _check_disk(folder: Path, base: Path, ranks: int) -> None:
    """Refuse a disk without room for the adapters.

    Rank x (inputs + outputs) x 4 bytes for each matrix of the model, and the tokenizer's files.
    """
    place = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    needed = ranks * 4 * sum(map(_sides, base.glob("*.safetensors"))) + 64 * 2**20
    if (free := shutil.disk_usage(place).free) < needed:
        raise PrerequisiteError(
            f"{place} has {free / 2**20:,.0f} MB free, and the adapters take up to {needed / 2**20:,.0f} MB while they are written; make room, or "
            "give another root."
        )


def _sides(path: Path) -> int:
    """Sum of rows and columns of all matrices in a file of weights, from its header."""
    with path.open("rb") as file:
        header = file.read(8)
        size = int.from_bytes(header, "little")
        text = file.read(min(size, 2**26))
    if len(header) < 8 or len(text) < size:
        return 0  # no file of weights: loading it says so
    shapes = [tensor.get("shape", []) for name, tensor in json.loads(text).items() if name != "__metadata__"]
    return sum(sum(shape) for shape in shapes if len(shape) == 2)


def _check_examples(arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None) -> None:
    for label, frame in ((f"set {arm!r}", examples), ("validation", validation)):
        if frame is None:
            continue
        if missing := {"id", "messages", "output"} - set(frame.columns):
            raise TrainingError(f"{label} has no column {sorted(missing)}; examples have id, messages and output.")
        if frame.is_empty():
            raise TrainingError(f"{label} has no rows; there is nothing to train on or to score.")
        if repeated := frame["id"].is_duplicated().sum():
            raise TrainingError(f"{label} has {repeated} rows with repeated ids; keep one of each.")
    if validation is not None and (shared := examples.join(validation, on="id", how="semi").height):
        raise TrainingError(
            f"{shared} examples of set {arm!r} also stand in validation; take them out of one of the two."
        )


def _backend(backend: str, method: str, device: str) -> str:
    if backend == "auto":
        backend = "unsloth" if device == "cuda" and importlib.util.find_spec("unsloth") else "trl"
    if backend == "unsloth":
        require("backend='unsloth'", "pip install 'unsloth>=2026.8'", "unsloth")
    if method == "qlora":
        require("method='qlora'", "pip install 'bitsandbytes>=0.48'", "bitsandbytes")
    return backend


class _Child:
    """One training process: its working folder, its log, and the row it ends in."""

    def __init__(
        self, arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None, spec: Mapping[str, Any]
    ) -> None:
        self.arm, self.device, self.folder = arm, spec["device"], Path(spec["folder"])
        self.failed_log = self.folder / f"{spec['name']}-{arm}.failed.log"
        self.work = Path(tempfile.mkdtemp(prefix=f".{spec['name']}-{arm}-", dir=self.folder))
        self.process: subprocess.Popen[bytes] | None = None
        self.row: dict[str, Any] = {}
        for part, frame in (("examples", examples), ("validation", validation)):
            if frame is not None:
                frame.select(*columns_of(frame)).sort("id").write_parquet(self.work / f"{part}.parquet")
        (self.work / "spec.json").write_text(json.dumps({**spec, "arm": arm}))

    def start(self) -> None:
        env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.device == "cpu":  # one thread: the same sums in the same order, so the same adapter
            env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with (self.work / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arislab.finetune.worker", str(self.work / "spec.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env, "PYTHONHASHSEED": "0"},
            )
        self.started = time.monotonic()

    def progress(self) -> dict[str, Any] | None:
        """Return the last whole line of progress.jsonl."""
        path = self.work / "progress.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return json.loads(lines[-1]) if lines else None

    def finished(self) -> bool:
        """Whether the process has ended; keeps its log, and raises TrainingError if it failed."""
        if self.process is None or self.process.poll() is None:
            return False
        if self.process.returncode:
            (self.work / "log.txt").replace(self.failed_log)
            refused, log = self.work / "refused.txt", self.failed_log.read_text(errors="replace")
            why = refused.read_text() if refused.exists() else "its last lines:\n" + "\n".join(log.splitlines()[-12:])
            end = f"training of set {self.arm!r} ended with exit code {self.process.returncode}"
            raise TrainingError(f"{end} (log: {self.failed_log}); {why}")
        self.row = json.loads((self.work / "result.json").read_text())
        self.row["seconds"] = round(time.monotonic() - self.started, 2)
        (self.work / "log.txt").replace(f"{self.row['model_path']}.log")
        self.failed_log.unlink(missing_ok=True)
        rows = json.loads(self.row["hyperparameters"])["rows"]
        if len(rows) > 1:
            logger.warning(
                "%d of %d examples of set %r are not trained: %s",
                sum(rows.values()) - rows["ok"],
                sum(rows.values()),
                self.arm,
                rows,
            )
        return True

    def close(self) -> None:
        """End the process if it still runs, and remove what it left."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)


def _supervise(children: Sequence[_Child], workers: int) -> None:
    """Run the children, at most `workers` at once, with a progress bar each."""
    from tqdm.auto import tqdm

    waiting = collections.deque(children)
    running: dict[_Child, Any] = {}  # child -> its bar
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = waiting.popleft()
                child.start()
                running[child] = tqdm(desc=child.arm, unit="step")
            time.sleep(0.1)
            for child, bar in list(running.items()):
                done, line = child.finished(), child.progress()
                if line is not None and (line["step"], line["losses"]) != getattr(bar, "shown", None):
                    bar.shown = (line["step"], line["losses"])
                    bar.total, bar.n = line["steps"], line["step"]
                    bar.set_postfix({key: f"{value:.3f}" for key, value in line["losses"].items()})
                if done:
                    running.pop(child).close()
    finally:
        for bar in running.values():
            bar.close()
