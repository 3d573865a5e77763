"""Fine-tune: examples to token labels that are proven row by row, and LoRA adapters that are named by their content.

An example, one row of what every function here reads:

    id        "r-5f0c…"                                  unique in its set
    messages  '[{"role": "system", "content": "Evaluate …"}, {"role": "user", "content": "Title: Nurse …"}]'
    output    '{"strengths": [], "score": 0.41}'         the assistant's answer: the only text that is trained

Each set of examples is trained by TRL + PEFT in a process of its own (`python -m arislab.finetune SPEC.json`), which receives token ids
and labels that were built and checked here: TRL neither renders, nor masks, nor cuts. An adapter is a folder
`<name>-<arm>-<first 12 hex of its weights' sha256>`: written beside its final place, renamed once, never changed. That folder name is the
model name under which the embedded server and vLLM serve it.

What it does not know: `backend="unsloth"` and anything on a GPU are written after the interfaces of Unsloth, bitsandbytes and TRL, and are
not run by the tests. Training that was killed starts again from its first step. One process uses one device.
"""

import collections
import contextlib
import hashlib
import html
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import ParameterError, PrerequisiteError, TrainingError, closest

logger = logging.getLogger("arislab.finetune")

STATUSES = {
    "ok": "trained",
    "empty": "the answer or a message has no text",
    "bad_messages": "messages is not a list of {role, content} with text contents",
    "bad_roles": "not an optional system message followed by user, assistant, user, …, user",
    "control_token": "a content holds a token that the chat template uses, such as the stop token",
    "template": "the chat template refuses the conversation, or does not put the answer right after the prompt",
    "boundary": "the last token of the prompt would merge with the first of the answer",
    "no_stop": "no stop token follows the answer",
    "not_reversible": "the labels do not decode to the answer and its stop token",
    "too_long": "longer than max_length; cutting it would cut the stop token",
}
METHODS = ("lora", "qlora")
BACKENDS = ("auto", "trl", "unsloth")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
RESULT_SCHEMA = {
    "id": pl.String,
    "name": pl.String,
    "arm": pl.String,
    "base_model": pl.String,
    "method": pl.String,
    "training_examples": pl.Int64,
    "train_loss": pl.Float64,
    "eval_loss": pl.Float64,
    "model_path": pl.String,
    "hyperparameters": pl.String,
    "adapter_sha256": pl.String,
    "seconds": pl.Float64,
    "device": pl.String,
    "losses": pl.String,
    "rows": pl.String,
}


def compute_device() -> tuple[str, str]:
    """Return where training will run, and why: ``("cpu", "no CUDA device is visible to torch 2.13.0")``."""
    _require("fine-tuning", 'pip install -e ".[train]"', "torch")
    import torch

    if torch.cuda.is_available():
        gb = torch.cuda.get_device_properties(0).total_memory / 2**30
        return "cuda", f"{torch.cuda.get_device_name(0)}, {gb:.0f} GiB"
    return "cpu", f"no CUDA device is visible to torch {torch.__version__}"


def export_jsonl(examples: pl.DataFrame, path: str | Path) -> int:
    """Write examples as chat JSONL, the format that fine-tuning services and trainers share.

    Args:
        examples: columns messages (JSON list) and output (String).
        path: written to a temporary file beside it, then renamed: a reader sees the old file or the whole new one.

    Returns:
        The number of lines, one per example: ``{"messages": [system, user, assistant]}``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", dir=path.parent, delete=False) as file:
        try:
            for messages, output in examples.select("messages", "output").iter_rows():
                chat = [*_parsed(messages), {"role": "assistant", "content": output}]
                file.write(json.dumps({"messages": chat}, ensure_ascii=False) + "\n")
            file.close()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
    return examples.height


# Labels


def tokenize(
    examples: pl.DataFrame,
    tokenizer: Any,
    *,
    max_length: int = 512,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Turn examples into token ids and labels, each row with the proof that exactly the answer is trained.

    The conversation is rendered twice by the model's own chat template: without the answer and with the generation prompt, as a
    server sees it, and whole. What the second adds is the trained part: the answer and its stop token. A row is `ok` only if the prompt's
    tokens are those that a server computes, and the labels decode to the answer and the stop token, nothing else. Nothing is ever cut.

    Args:
        examples: columns id, messages (JSON list of system, user and assistant messages), output (String).
        tokenizer: a model folder, or a loaded transformers tokenizer with a chat template.
        max_length: tokens, prompt and answer together.
        chat_template_kwargs: passed to the template and to be passed when serving, such as ``{"enable_thinking": False}``.

    Returns:
        One row per example, in order: id, input_ids and labels (List of Int32; -100 is not trained; null unless ok), status (see
        ``STATUSES``), reason (null if ok), n_tokens and n_supervised (0 if the row could not be rendered).
    """
    labeller = _Labeller(_tokenizer(tokenizer), max_length, dict(chat_template_kwargs or {}))
    rows = [
        {"id": row_id, **labeller(messages, output)}
        for row_id, messages, output in examples.select("id", "messages", "output").iter_rows()
    ]
    ids = pl.List(pl.Int32)
    columns: dict[str, Any] = {
        "id": pl.String,
        "input_ids": ids,
        "labels": ids,
        "status": pl.String,
        "reason": pl.String,
    }
    return pl.DataFrame(rows, schema={**columns, "n_tokens": pl.Int32, "n_supervised": pl.Int32})


class _Refused(Exception):  # noqa: N818  (not an error: it becomes the status of a row)
    """Why a row is not trained: status and reason."""


class _Labeller:
    """Renders and labels one conversation at a time with one tokenizer."""

    def __init__(self, tokenizer: Any, max_length: int, template_kwargs: dict[str, Any]) -> None:
        self.tokenizer, self.max_length, self.template_kwargs = tokenizer, max_length, template_kwargs
        added = tokenizer.added_tokens_decoder
        names = {*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special)}
        self.control_ids = {tokenizer.convert_tokens_to_ids(name) for name in names}
        self.control = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)")
        self.expected: dict[tuple[str, ...], int] = {}  # control tokens that the template itself writes, by roles

    def __call__(self, messages: Any, output: Any) -> dict[str, Any]:
        try:
            prompt = self._checked(messages, output)
            input_ids, n_prompt = self._encode(prompt, output)
            if len(input_ids) > self.max_length:
                status, reason = "too_long", f"{len(input_ids)} tokens, max_length is {self.max_length}"
                return _row(status, reason, n_tokens=len(input_ids), n_supervised=len(input_ids) - n_prompt)
        except _Refused as refused:
            return _row(*refused.args)
        labels = [-100] * n_prompt + input_ids[n_prompt:]
        return _row("ok", None, input_ids, labels, n_tokens=len(labels), n_supervised=len(labels) - n_prompt)

    def _checked(self, messages: Any, output: Any) -> list[dict[str, str]]:
        """Return the messages before the answer, or refuse what no template should see."""
        try:
            chat = _parsed(messages)
        except ValueError as error:
            raise _Refused("bad_messages", f"messages is not JSON: {error}") from None
        if not isinstance(chat, list) or not all(_is_message(message) for message in chat):
            raise _Refused("bad_messages", STATUSES["bad_messages"])
        roles = [message["role"] for message in chat]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if turns != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
            raise _Refused("bad_roles", f"roles are {roles}")
        if not isinstance(output, str) or not output.strip() or not all(m["content"].strip() for m in chat):
            raise _Refused("empty", STATUSES["empty"])
        for content in (*(message["content"] for message in chat), output):
            if found := self.control.search(content):
                raise _Refused("control_token", f"a content holds {found[0]!r}, a token of the chat template")
        return [{"role": message["role"], "content": message["content"]} for message in chat]

    def _render(self, chat: list[dict[str, str]], *, prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            rendered = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=prompt, **self.template_kwargs
            )
        except TemplateError as error:
            raise _Refused("template", f"the chat template refuses: {error}") from None
        return str(rendered)

    def _ids(self, text: str) -> list[int]:
        # the template writes the beginning-of-sequence token itself; special tokens on top would double it
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode(self, chat: list[dict[str, str]], output: str) -> tuple[list[int], int]:
        """Return the ids up to and including the stop token, and how many of them are prompt."""
        prompt = self._render(chat, prompt=True)
        whole = self._render([*chat, {"role": "assistant", "content": output}], prompt=False)
        answer = next((text for text in (output, output.strip()) if whole.startswith(prompt + text)), None)
        if answer is None:
            raise _Refused("template", "the chat template does not put the answer right after the generation prompt")
        prompt_ids, ids = self._ids(prompt), self._ids(whole)
        n_prompt = len(prompt_ids)
        if ids[:n_prompt] != prompt_ids:
            raise _Refused("boundary", "the last token of the prompt merges with the first of the answer")
        stop = next((at for at in range(n_prompt, len(ids)) if ids[at] in self.control_ids), None)
        if stop is None:
            raise _Refused("no_stop", "no stop token follows the answer")
        roles = tuple(message["role"] for message in chat)
        if sum(i in self.control_ids for i in ids) != self._expected(roles):
            raise _Refused("control_token", "a content turns into a token of the chat template")
        ids = ids[: stop + 1]  # what a template writes after the stop token, such as a line end, is no use
        trained = self.tokenizer.decode(ids[n_prompt:], clean_up_tokenization_spaces=False)
        wanted = answer + self.tokenizer.convert_ids_to_tokens(ids[stop])
        # a tokenizer that normalises (NFC) may write the same characters in fewer code points
        if trained != wanted and unicodedata.normalize("NFC", trained) != unicodedata.normalize("NFC", wanted):
            raise _Refused("not_reversible", f"the labels decode to {trained[:60]!r}, not to {wanted[:60]!r}")
        return ids, n_prompt

    def _expected(self, roles: tuple[str, ...]) -> int:
        if roles not in self.expected:
            chat = [{"role": role, "content": "x"} for role in (*roles, "assistant")]
            ids = self._ids(self._render(chat, prompt=False))
            bos = self.tokenizer.bos_token_id
            if bos is not None and bos != self.tokenizer.eos_token_id and ids.count(bos) > 1:
                raise _Refused("template", f"the chat template writes {self.tokenizer.bos_token!r} more than once")
            self.expected[roles] = sum(i in self.control_ids for i in ids)
        return self.expected[roles]


def _row(
    status: str,
    reason: str | None,
    input_ids: list[int] | None = None,
    labels: list[int] | None = None,
    n_tokens: int = 0,
    n_supervised: int = 0,
) -> dict[str, Any]:
    counts = {"n_tokens": n_tokens, "n_supervised": n_supervised}
    return {"input_ids": input_ids, "labels": labels, "status": status, "reason": reason, **counts}


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )


def _parsed(messages: Any) -> Any:
    return json.loads(messages) if isinstance(messages, str) else messages


def _tokenizer(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    _require("tokenize", 'pip install -e ".[train]"', "transformers", "torch")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model(tokenizer))


@dataclass(frozen=True)
class Preview:
    """A few labelled rows as HTML: the prompt in grey, what is trained marked. Shown by Jupyter."""

    rows: tuple[tuple[str, str, str], ...]
    """(id, prompt, trained part) of each row shown."""
    counts: Mapping[str, int]
    """Rows by status, over all rows."""

    def __repr__(self) -> str:
        return f"Preview({len(self.rows)} rows; {', '.join(f'{k} {v}' for k, v in self.counts.items())})"

    def _repr_html_(self) -> str:
        parts = [
            f'<p style="font-family:monospace;white-space:pre-wrap"><b>{html.escape(row_id)}</b>\n'
            f'<span style="opacity:.6">{html.escape(prompt)}</span>'
            f'<mark title="trained">{html.escape(trained)}</mark></p>'
            for row_id, prompt, trained in self.rows
        ]
        counts = ", ".join(f"{html.escape(status)} {n}" for status, n in self.counts.items())
        return f"<div>{''.join(parts)}<small>marked: trained · rows: {counts}</small></div>"


def preview(tokenized: pl.DataFrame, tokenizer: Any, *, n: int = 3) -> Preview:
    """Show the first `n` trained rows of what `tokenize` returned, decoded from its ids and labels."""
    tokenizer = _tokenizer(tokenizer)
    rows = []
    for row in tokenized.filter(pl.col("status") == "ok").head(n).iter_rows(named=True):
        cut = row["n_tokens"] - row["n_supervised"]
        rows.append((row["id"], tokenizer.decode(row["input_ids"][:cut]), tokenizer.decode(row["labels"][cut:])))
    return Preview(tuple(rows), _counts(tokenized))


def _counts(tokenized: pl.DataFrame) -> dict[str, int]:
    return dict(sorted(collections.Counter(tokenized["status"].to_list()).items()))


# The parent: one process per set


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

    Rows are ordered by id before training, so the order of a frame changes nothing. On a CPU, with the same versions, the same rows, settings
    and seed give the same adapter, bit for bit.

    Args:
        sets: arm -> examples (columns id, messages, output), such as ``{"curated": …, "control": …}``.
        validation: examples of no set, scored before, three times during, and after training; None: not scored.
        base_model: a model folder, or the name of a model in the local Hugging Face cache; nothing is downloaded.
        folder: where the adapters' folders go.
        method: "lora", or "qlora" (4-bit NF4 base with bitsandbytes).
        r: rank of the adapters, on all linear layers but the output head; vLLM serves up to 16 by default.
        lora_alpha: the update is scaled by lora_alpha / r.
        learning_rate: at its peak, after a warm-up over 3 % of the steps; then a cosine to 0. For LoRA about ten times that of full training.
        num_train_epochs: passes over each set.
        batch_size: examples per optimizer step.
        gradient_accumulation_steps: the batch is computed in this many parts, for less memory.
        max_length: tokens; a longer example is not trained, never cut.
        seed: of the adapter's first weights and of the order of examples.
        name: adapter folders are called <name>-<arm>-<hash>.
        workers: processes at once; default 2 (or the number of cores, if that is 1) on a CPU, 1 on a GPU.
        backend: "trl", "unsloth", or "auto": unsloth where a GPU and unsloth are, else trl.
        chat_template_kwargs: see `tokenize`.

    Returns:
        One row per set: id (the same for the same inputs), name, arm, base_model, method, training_examples, train_loss (per trained token,
        mean of the last epoch), eval_loss (the same over `validation`, at the end; null without), model_path, hyperparameters (JSON),
        adapter_sha256 (of the weights file), seconds (wall, start-up included), device, losses (JSON list of step, train_loss,
        eval_loss), rows (JSON object: examples by status, their sum is the set's height).

    Raises:
        TrainingError: a set or `validation` has no usable row, they share an id, or a training process failed.
        ParameterError: a setting that is unknown or out of range.
        PrerequisiteError: a package or the base model is missing.
    """
    settings: dict[str, Any] = {
        "method": method,
        "r": r,
        "lora_alpha": lora_alpha,
        "learning_rate": learning_rate,
        "num_train_epochs": num_train_epochs,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "max_length": max_length,
        "seed": seed,
        "backend": backend,
    }
    _check_settings(settings, name, sets)
    _require(
        "fine-tuning", 'pip install -e ".[train]"', "torch", "transformers", "trl", "peft", "datasets", "accelerate"
    )
    device, _ = compute_device()
    settings["backend"] = _backend(backend, method, device)
    if workers is None:
        workers = 1 if device == "cuda" else min(2, os.cpu_count() or 1)
    if workers < 1:
        raise ParameterError(f"workers must be at least 1, got {workers!r}.")
    for arm, examples in sets.items():
        _check_examples(arm, examples, validation)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "name": name,
        "base_model": str(resolve_model(base_model)),
        "folder": str(folder.resolve()),
        "device": device,
        "settings": settings,
        "chat_template_kwargs": dict(chat_template_kwargs or {}),
        "parent_pid": os.getpid(),
    }
    children = [_Child(arm, examples, validation, spec) for arm, examples in sets.items()]
    try:
        _supervise(children, workers)
        rows = [child.result() for child in children]
    finally:
        for child in children:
            child.close()
    return pl.DataFrame(rows, schema=RESULT_SCHEMA)  # one row per set


def _check_settings(settings: Mapping[str, Any], name: str, sets: Mapping[str, Any]) -> None:
    for key, known in (("method", METHODS), ("backend", BACKENDS)):
        if settings[key] not in known:
            raise ParameterError(f"{key} {settings[key]!r} is not known; {closest(str(settings[key]), known)}.")
    for key in ("r", "lora_alpha", "batch_size", "gradient_accumulation_steps", "max_length"):
        if isinstance(settings[key], bool) or not isinstance(settings[key], int) or settings[key] < 1:
            raise ParameterError(f"{key} must be a whole number of at least 1, got {settings[key]!r}.")
    if isinstance(settings["seed"], bool) or not isinstance(settings["seed"], int) or not 0 <= settings["seed"] < 2**32:
        raise ParameterError(f"seed must be a whole number in 0..2^32-1, got {settings['seed']!r}.")
    for key in ("learning_rate", "num_train_epochs"):
        if not (isinstance(settings[key], int | float) and math.isfinite(settings[key]) and settings[key] > 0):
            raise ParameterError(f"{key} must be a number above 0, got {settings[key]!r}.")
    if settings["batch_size"] % settings["gradient_accumulation_steps"]:
        raise ParameterError(
            f"batch_size {settings['batch_size']} is not divisible by gradient_accumulation_steps "
            f"{settings['gradient_accumulation_steps']}; choose parts of equal size."
        )
    if not sets:
        raise ParameterError('sets is empty; give at least one, such as {"curated": examples}.')
    for part in (name, *sets):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", part):
            raise ParameterError(
                f"{part!r} becomes part of a folder and model name; use letters, digits, '.', '_' and '-'."
            )


def _check_examples(arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None) -> None:
    for label, frame in ((f"set {arm!r}", examples), ("validation", validation)):
        if frame is not None and (missing := {"id", "messages", "output"} - set(frame.columns)):
            raise TrainingError(f"{label} has no column {sorted(missing)}; examples have id, messages and output.")
        if frame is not None and frame["id"].is_duplicated().any():
            raise TrainingError(
                f"{label} has {frame['id'].is_duplicated().sum()} rows with repeated ids; make ids unique."
            )
    if validation is not None and (shared := examples.join(validation, on="id", how="semi").height):
        raise TrainingError(
            f"{shared} examples of set {arm!r} also stand in validation; take them out of one of the two."
        )


def _backend(backend: str, method: str, device: str) -> str:
    if backend == "auto":
        backend = "unsloth" if device == "cuda" and importlib.util.find_spec("unsloth") else "trl"
    if backend == "unsloth":
        _require("backend='unsloth'", "pip install 'unsloth>=2026.8'", "unsloth")
    if method == "qlora":
        _require("method='qlora'", "pip install 'bitsandbytes>=0.48'", "bitsandbytes")
    return backend


def _require(feature: str, install: str, *modules: str) -> None:
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise PrerequisiteError(f"{feature} needs {', '.join(missing)}, not installed here; run: {install}")


def resolve_model(base_model: str | Path) -> Path:
    """Return the folder of a base model: a path, ``"tiny"``, or a name in the local Hugging Face cache."""
    path = Path(__file__).parent / "tiny" / "model" if str(base_model) == "tiny" else Path(base_model)
    if (
        not path.exists()
        and re.fullmatch(r"[\w.-]+/[\w.-]+", str(base_model))
        and importlib.util.find_spec("huggingface_hub")
    ):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        with contextlib.suppress(LocalEntryNotFoundError):
            path = Path(snapshot_download(str(base_model), local_files_only=True))
    if not (path / "config.json").exists():
        raise PrerequisiteError(
            f"base_model {str(base_model)!r} is neither a folder with a config.json nor a model in the local Hugging Face "
            "cache; download it first (hf download NAME) or give the folder's path."
        )
    return path


class _Child:
    """One training process: its working folder, its log, its progress."""

    def __init__(
        self, arm: str, examples: pl.DataFrame, validation: pl.DataFrame | None, spec: Mapping[str, Any]
    ) -> None:
        self.arm, self.folder = arm, Path(spec["folder"])
        self.work = Path(tempfile.mkdtemp(prefix=f".{spec['name']}-{arm}-", dir=self.folder))
        self.failed_log = self.folder / f"{spec['name']}-{arm}.failed.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        examples.select("id", "messages", "output").sort("id").write_parquet(self.work / "examples.parquet")
        if validation is not None:
            validation.select("id", "messages", "output").sort("id").write_parquet(self.work / "validation.parquet")
        (self.work / "spec.json").write_text(json.dumps({**spec, "arm": arm}))
        self.device = spec["device"]

    def start(self) -> None:
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.device == "cpu":  # one thread: the same sums in the same order, so the same adapter
            quiet |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with (self.work / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arislab.finetune", str(self.work / "spec.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **quiet, "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"},
            )
        self.started = time.monotonic()

    def progress(self) -> dict[str, Any] | None:
        """Return the last progress line that is whole."""
        path = self.work / "progress.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return json.loads(lines[-1]) if lines else None

    def finished(self) -> bool:
        """Whether the process has ended well; keeps its log and raises TrainingError if it failed."""
        if self.process is None or self.process.poll() is None:
            return False
        if self.process.returncode:
            (self.work / "log.txt").replace(self.failed_log)
            lines = self.failed_log.read_text(errors="replace").strip().splitlines()
            refused = self.work / "refused.txt"
            why = refused.read_text() if refused.exists() else "its last lines:\n" + "\n".join(lines[-12:])
            raise TrainingError(
                f"training of set {self.arm!r} ended with exit code {self.process.returncode} (log: {self.failed_log}); {why}"
            )
        result = json.loads((self.work / "result.json").read_text())
        result["seconds"] = round(time.monotonic() - self.started, 2)
        (self.work / "log.txt").replace(f"{result['model_path']}.log")
        self.row: dict[str, Any] = result
        self.failed_log.unlink(missing_ok=True)
        return True

    def result(self) -> dict[str, Any]:
        return self.row

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)


def _supervise(children: Sequence[_Child], workers: int) -> None:
    from tqdm.auto import tqdm

    waiting = collections.deque(children)
    running: list[_Child] = []
    bars: dict[str, Any] = {}
    bars_shown: dict[str, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = waiting.popleft()
                child.start()
                running.append(child)
                bars[child.arm] = tqdm(desc=child.arm, total=None, unit="step")
            time.sleep(0.1)
            for child in list(running):
                bar, done = bars[child.arm], child.finished()
                line = child.progress()
                if line is not None and (line["step"], line["losses"]) != bars_shown.get(child.arm):
                    bars_shown[child.arm] = line["step"], line["losses"]
                    bar.total, bar.n = line["steps"], line["step"]
                    bar.set_postfix({k: f"{v:.3f}" for k, v in line["losses"].items()}, refresh=False)
                    bar.refresh()
                if done:
                    running.remove(child)
                    bar.close()
    finally:
        for bar in bars.values():
            bar.close()


# The child: python -m arislab.finetune SPEC.json


def _main(spec_path: str) -> int:
    """Train one set and write its adapter; result.json beside the spec says how it went."""
    work = Path(spec_path).parent
    spec = json.loads(Path(spec_path).read_text())
    try:
        result = _train_one(spec, work)
    except TrainingError as error:
        (work / "refused.txt").write_text(str(error))
        raise
    (work / "result.json").write_text(json.dumps(result))
    return 0


def _train_one(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    settings, base = spec["settings"], Path(spec["base_model"])
    if settings["backend"] == "unsloth":
        importlib.import_module("unsloth")  # it patches trl and transformers, and must come first
    import torch
    import transformers

    if spec["device"] == "cpu":
        torch.set_num_threads(1)
    transformers.set_seed(settings["seed"])
    tokenizer = _tokenizer(base)
    sets = {part: _usable(work / f"{part}.parquet", tokenizer, spec) for part in ("examples", "validation")}
    tokenized, rows = sets["examples"]
    if tokenized is None:
        raise TrainingError("the set has no file of examples")
    trainer = _trainer(spec, tokenizer, tokenized, work)
    meter = _Meter(trainer, sets["validation"][0], work / "progress.jsonl", spec["parent_pid"])
    trainer.add_callback(meter.callback())
    trainer.train()
    stops = sorted({labels[-1] for labels in tokenized["labels"].to_list()})
    hyperparameters = {
        **settings,
        "target_modules": "all-linear",
        "lora_dropout": 0.0,
        "lr_scheduler_type": "cosine",
        "warmup_fraction": 0.03,
        "optim": str(getattr(trainer.args.optim, "value", trainer.args.optim)),
        "steps": trainer.state.max_steps,
        "stop_tokens": tokenizer.convert_ids_to_tokens(stops),
        "chat_template_kwargs": spec["chat_template_kwargs"],
    }
    manifest = {
        "arm": spec["arm"],
        "base": _base_fingerprint(base),
        "data_sha256": _data_sha256(tokenized),
        "validation_sha256": None if sets["validation"][0] is None else _data_sha256(sets["validation"][0]),
        "hyperparameters": hyperparameters,
        "rows": rows,
        "versions": _versions(settings["backend"], settings["method"]),
    }
    path, adapter_sha256 = _write_adapter(trainer, base, spec, manifest, work / "adapter")
    epoch_steps = math.ceil(trainer.state.max_steps / settings["num_train_epochs"])
    identity = {"name": spec["name"], **{k: v for k, v in manifest.items() if k != "rows"}}
    return {
        "id": "ft-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        "name": spec["name"],
        "arm": spec["arm"],
        "base_model": manifest["base"]["name"],
        "method": settings["method"],
        "training_examples": tokenized.height,
        "train_loss": meter.train_loss(since=trainer.state.max_steps - epoch_steps),
        "eval_loss": meter.records[-1]["eval_loss"],
        "model_path": str(path),
        "hyperparameters": json.dumps({**hyperparameters, "versions": manifest["versions"]}),
        "adapter_sha256": adapter_sha256,
        "device": spec["device"] if spec["device"] == "cpu" else torch.cuda.get_device_name(0),
        "losses": json.dumps(meter.records),
        "rows": json.dumps(rows),
    }


def _usable(path: Path, tokenizer: Any, spec: dict[str, Any]) -> tuple[pl.DataFrame | None, dict[str, int]]:
    """Return the rows that can be trained on, and the account of all rows by status."""
    if not path.exists():
        return None, {}
    settings = spec["settings"]
    tokenized = tokenize(
        pl.read_parquet(path),
        tokenizer,
        max_length=settings["max_length"],
        chat_template_kwargs=spec["chat_template_kwargs"],
    )
    counts = _counts(tokenized)
    usable = tokenized.filter(pl.col("status") == "ok")
    if usable.is_empty():
        reasons = tokenized["reason"].drop_nulls().unique(maintain_order=True).head(3).to_list()
        raise TrainingError(
            f"none of the {tokenized.height} {path.stem} of arm {spec['arm']!r} can be used: {counts}; first reasons: {reasons}"
        )
    return usable, counts


def _trainer(spec: dict[str, Any], tokenizer: Any, tokenized: pl.DataFrame, work: Path) -> Any:
    """Build the SFTTrainer over our ids and labels."""
    import datasets

    settings, on_gpu = spec["settings"], spec["device"] == "cuda"
    datasets.disable_progress_bars()
    model, peft_config = _model(spec, on_gpu=on_gpu)
    from trl import SFTConfig, SFTTrainer

    parts = settings["gradient_accumulation_steps"]
    steps = math.ceil(math.ceil(tokenized.height / settings["batch_size"]) * settings["num_train_epochs"])
    arguments = SFTConfig(
        output_dir=str(work / "trainer"),
        per_device_train_batch_size=settings["batch_size"] // parts,
        gradient_accumulation_steps=parts,
        num_train_epochs=settings["num_train_epochs"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(0.03 * steps)),
        weight_decay=0.0,
        seed=settings["seed"],
        logging_steps=max(1, steps // 40),
        max_length=None,  # rows are whole or refused before this; the trainer must not cut
        packing=False,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        fp16=False,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
    )
    # on a GPU the trainer's own fused loss is faster; without Triton it scores masked positions too
    trainer_class = SFTTrainer if on_gpu or settings["backend"] == "unsloth" else _supervised_trainer(SFTTrainer)
    rows = {column: tokenized[column].to_list() for column in ("input_ids", "labels")}
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    return trainer


def _model(spec: dict[str, Any], *, on_gpu: bool) -> tuple[Any, Any]:
    """Load the base model: (model, LoRA configuration), or (model with its adapter, None) from Unsloth."""
    settings = spec["settings"]
    import torch

    dtype = torch.bfloat16 if on_gpu else torch.float32
    if settings["backend"] == "unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            spec["base_model"],
            max_seq_length=settings["max_length"],
            dtype=dtype,
            load_in_4bit=settings["method"] == "qlora",
        )
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = FastLanguageModel.get_peft_model(
            model,
            r=settings["r"],
            lora_alpha=settings["lora_alpha"],
            target_modules=targets,
            lora_dropout=0,
            bias="none",
            random_state=settings["seed"],
            use_gradient_checkpointing="unsloth" if on_gpu else False,
        )
        return model, None
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = None
    if settings["method"] == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    model = AutoModelForCausalLM.from_pretrained(spec["base_model"], dtype=dtype, quantization_config=quantization)
    if quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=on_gpu)
    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return model, config


def _supervised_trainer(base: Any) -> Any:
    """Return an SFTTrainer whose loss computes the output head at trained positions only.

    The loss is the same: masked positions count nothing. The first batch is computed both ways; if they differ (a model that scales or caps its
    logits), training goes on with the trainer's own loss.
    """
    import torch

    class SupervisedTrainer(base):
        agrees: bool | None = None

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None
        ) -> Any:
            if return_outputs or self.agrees is False:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss = self.supervised_loss(model, inputs, num_items_in_batch)
            if self.agrees is None:
                with torch.no_grad():
                    reference = super().compute_loss(model, dict(inputs), False, num_items_in_batch)
                self.agrees = bool(torch.isclose(loss.detach(), reference, rtol=1e-3))
                print(f"loss at trained positions {loss.item():.6f}, of the trainer {reference.item():.6f}")  # noqa: T201
                if not self.agrees:
                    return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return loss

        def supervised_loss(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            core = self.accelerator.unwrap_model(model).get_base_model()
            hidden = core.get_decoder()(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            )[0]
            wanted = inputs["labels"][:, 1:]
            trained = wanted != -100
            logits = core.get_output_embeddings()(hidden[:, :-1][trained])
            total = torch.nn.functional.cross_entropy(logits.float(), wanted[trained], reduction="sum")
            return total / (trained.sum() if num_items_in_batch is None else num_items_in_batch)

    return SupervisedTrainer


class _Meter:
    """Records losses and progress, and stops when the parent has died."""

    def __init__(self, trainer: Any, validation: pl.DataFrame | None, progress: Path, parent_pid: int) -> None:
        self.trainer, self.progress, self.parent_pid = trainer, progress, parent_pid
        self.records: list[dict[str, Any]] = []
        self.batches = [] if validation is None else list(self._batches(validation))

    def _batches(self, validation: pl.DataFrame) -> Iterator[dict[str, Any]]:
        rows = validation.sort("n_tokens").select("input_ids", "labels").to_dicts()
        size = self.trainer.args.per_device_train_batch_size
        for at in range(0, len(rows), size):
            yield self.trainer.data_collator(rows[at : at + size])

    def eval_loss(self) -> float | None:
        """Return the loss per trained token over all of validation, whatever the batches are."""
        import torch

        if not self.batches:
            return None
        model, total, n_trained = self.trainer.model, 0.0, 0
        model.eval()
        one = torch.tensor(1, device=self.trainer.args.device)
        with torch.no_grad():
            for batch in self.batches:
                inputs = self.trainer._prepare_inputs(dict(batch))
                with self.trainer.compute_loss_context_manager():
                    total += float(self.trainer.compute_loss(model, inputs, num_items_in_batch=one))
                n_trained += int((inputs["labels"][:, 1:] != -100).sum())
        model.train()
        return total / n_trained

    def record(self, step: int, steps: int, **losses: float | None) -> None:
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step, "train_loss": None, "eval_loss": None})
        self.records[-1].update(losses)
        shown = {key: value for key, value in losses.items() if value is not None}
        with self.progress.open("a") as file:
            file.write(json.dumps({"step": step, "steps": steps, "losses": shown}) + "\n")

    def train_loss(self, *, since: int) -> float | None:
        known = [(r["step"], r["train_loss"]) for r in self.records if r["train_loss"] is not None]
        late = [loss for step, loss in known if step > since] or [loss for _, loss in known[-1:]]
        return sum(late) / len(late) if late else None

    def callback(self) -> Any:
        from transformers import TrainerCallback

        meter = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meter.record(0, state.max_steps, eval_loss=meter.eval_loss())

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if os.getppid() != meter.parent_pid:
                    raise SystemExit("the process that started this training is gone")
                steps = state.max_steps
                control.should_log = control.should_log or state.global_step == steps
                if state.global_step < steps and state.global_step in {round(steps * part / 4) for part in (1, 2, 3)}:
                    meter.record(state.global_step, steps, eval_loss=meter.eval_loss())

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    meter.record(state.global_step, state.max_steps, train_loss=float(logs["loss"]))

            def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                meter.record(state.global_step, state.max_steps, eval_loss=meter.eval_loss())

        return Callback()


# The adapter folder


def _write_adapter(
    trainer: Any, base: Path, spec: dict[str, Any], manifest: dict[str, Any], staging: Path
) -> tuple[Path, str]:
    """Write the adapter into `staging`, then rename it to the name its content gives it."""
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(staging, safe_serialization=True)
    config = json.loads((staging / "adapter_config.json").read_text())
    # an absolute path would break when the folder moves, and the wrong base of the same shape loads without a word
    config["base_model_name_or_path"] = f"{manifest['base']['name']}@sha256:{manifest['base']['sha256'][:12]}"
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    (staging / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, staging / name)
    kept = {"adapter_config.json", "adapter_model.safetensors", *TOKENIZER_FILES}
    for path in staging.iterdir():  # a model card that points nowhere, pickled arguments
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
    sha256 = files["adapter_model.safetensors"]
    (staging / "manifest.json").write_text(json.dumps({**manifest, "files": files}, indent=2, sort_keys=True) + "\n")
    final = Path(spec["folder"]) / f"{spec['name']}-{spec['arm']}-{sha256[:12]}"
    try:
        staging.rename(final)
    except OSError:  # the name is taken, by the same content or by somebody's edit of it
        changed = [
            name for name, digest in files.items() if not (final / name).exists() or _sha256(final / name) != digest
        ]
        if changed:
            raise TrainingError(
                f"{final} exists and its {', '.join(changed)} differ from what was trained now; adapters never change, so move it away."
            ) from None
    return final, sha256


def _base_fingerprint(base: Path) -> dict[str, str]:
    """Name and digest of a base model: the digest of its weights file, or of the list of them."""
    digests = [_sha256(path) for path in sorted(base.glob("*.safetensors"))]
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    shipped = base.resolve() == (Path(__file__).parent / "tiny" / "model").resolve()
    # a snapshot folder of the Hugging Face cache is models--<owner>--<name>/snapshots/<commit>
    cached = (
        base.parent.parent.name.removeprefix("models--").replace("--", "/") if base.parent.name == "snapshots" else None
    )
    return {"name": f"arislab-tiny-{sha256[:8]}" if shipped else cached or base.resolve().name, "sha256": sha256}


def _data_sha256(tokenized: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for row in tokenized.select("input_ids", "labels").iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _versions(backend: str, method: str) -> dict[str, str]:
    names = ["arislab", "torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "safetensors"]
    names += ["unsloth"] * (backend == "unsloth") + ["bitsandbytes"] * (method == "qlora")
    return {name: importlib.metadata.version(name) for name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
