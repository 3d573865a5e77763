"""Examples as files for services and trainers elsewhere: OpenAI fine-tuning, Axolotl, LLaMA-Factory.

One line of each, and what is added where others would train on more than the last answer::

    {"messages": [{"role": "user", …}, {"role": "assistant", …, "weight": 0}, …, {"role": "assistant", …}]}

What it does not know: tokens of OpenAI's models, so that the length of an example there is bounded, not counted; and
whether a service accepts what the texts say.
"""

import collections
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.finetune import recipes
from arislab.system import files

FORMATS = ("openai", "axolotl", "llama-factory")
OPENAI_STATUSES = {
    "ok": "written",
    "empty": "the answer has no text and calls nothing",
    "bad_roles": "a role is none of system, user, assistant, tool",
    "bad_tools": "a tool has no name of 1 to 64 letters, digits, _ and -",
}
OPENAI_LEAST, OPENAI_MOST_BYTES, OPENAI_MOST_TOKENS = 10, 512 * 10**6, 65_536
"""Fewest examples, largest file, and longest example of the GPT-4o and GPT-4.1 models (16,385 of GPT-3.5 Turbo), which
are cut at their end beyond: Source: OpenAI, guide to supervised fine-tuning and reference of the Files API."""


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
    return _write(_chats(examples), path)


def export_training(
    examples: pl.DataFrame,
    folder: str | Path,
    *,
    held_out: pl.DataFrame,
    tuned: Mapping[str, Any],
    form: str,
    base_model: str | None = None,
) -> dict[str, Any]:
    """Write the examples of a training, and its settings, as another trainer takes them.

    The folder holds train.jsonl; validation.jsonl, where examples were held out; account.json (what this returns); and
    axolotl.yaml, or train.yaml and dataset_info.json for LLaMA-Factory. In conversations only the last answer is
    trained, as here. Nothing is uploaded.

    Args:
        examples: columns id, messages (JSON list), output; tools and tool_calls, if present: see ``tokenize``.
        folder: Made whole or not at all; must not exist, or be empty.
        held_out: The same columns; may have no row.
        tuned: A row of ``finetuning_runs``: id, base_model, data_version, method, hyperparameters.
        form: ``openai``, ``axolotl`` or ``llama-factory``.
        base_model: What the trainer loads; default the name of the base that was trained here.

    Returns:
        training, data_version, form, files (name -> bytes and sha256), rows (file -> status -> count), left_out (id ->
        status, reason) and, for openai, checked and not_checked in words.

    Raises:
        ParameterError: Another form.
        PrerequisiteError: OpenAI would refuse the file: too few examples are in order, or it is too large.
        OSError: The folder cannot be written, or holds something.
    """
    if form not in FORMATS:
        raise ParameterError(f"format {form!r} is not known; {closest(form, FORMATS)}.")
    # only templates, and so axolotl, may know a role developer
    role = json.loads(tuned["hyperparameters"]).get("system_role", "") if form != "openai" else "system"
    role = role if form == "axolotl" else role or "system"
    marks: dict[str, dict[str, Any]] = {"openai": {"weight": 0}, "axolotl": {"training": False}}
    account: dict[str, Any] = {"training": tuned["id"], "data_version": tuned["data_version"], "form": form}
    account |= {"rows": {}, "left_out": {}, "files": {}}
    with files.made(Path(folder)) as part:
        for name, rows in (("train.jsonl", examples), ("validation.jsonl", held_out)):
            if not rows.height:
                continue
            statuses = _judged(rows, form)
            account["rows"][name] = dict(sorted(collections.Counter(status for status, _ in statuses).items()))
            kept = rows.filter(pl.Series([status == "ok" for status, _ in statuses], dtype=pl.Boolean))
            left_out = zip(rows["id"], statuses, strict=True)
            account["left_out"] |= {i: list(why) for i, why in left_out if why[0] != "ok"}
            _write(
                _chats(kept, system_role=role, mark=marks.get(form), tools_as_text=form == "llama-factory"), part / name
            )
        if form == "openai":
            account |= _within_limits(part, account)
        has_tools = "tools" in examples.columns and examples["tools"].null_count() < examples.height
        how: dict[str, Any] = {"base_model": base_model, "is_held_out": held_out.height > 0, "has_tools": has_tools}
        for name, text in recipes.texts(form, tuned, **how).items():
            files.replace(part / name, text)
        account["files"] = {path.name: files.of_file(path) for path in sorted(part.iterdir())}
        files.replace(part / "account.json", json.dumps(account, indent=1, ensure_ascii=False) + "\n")
    return account


def _write(lines: Iterator[dict[str, Any]], path: Path) -> int:
    n = 0
    with files.written(path) as file:
        for line in lines:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            n += 1
    return n


def _chats(
    examples: pl.DataFrame,
    *,
    system_role: str = "",
    mark: dict[str, Any] | None = None,
    tools_as_text: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the examples as conversations; ``mark`` goes to the answers that are not trained."""
    for row in examples.iter_rows(named=True):
        before = chat.in_role(json.loads(row["messages"]), system_role)
        before = [m | mark if mark and m["role"] == "assistant" else m for m in before]
        line: dict[str, Any] = {"messages": [*before, chat.answer(row["output"], row.get("tool_calls"))]}
        if row.get("tools"):
            line["tools"] = row["tools"] if tools_as_text else json.loads(row["tools"])
        yield line


def _judged(examples: pl.DataFrame, form: str) -> list[tuple[str, str]]:
    """Return status and reason of each row: by OpenAI's rules, if it goes there."""
    if form != "openai":
        return [("ok", "")] * examples.height
    return [_by_openai(line) for line in _chats(examples, system_role="system")]


def _by_openai(line: dict[str, Any]) -> tuple[str, str]:
    messages, answer = line["messages"], line["messages"][-1]
    if not (answer["content"] or "").strip() and not answer.get("tool_calls"):
        return "empty", OPENAI_STATUSES["empty"]
    if strange := [m["role"] for m in messages if m["role"] not in ("system", "user", "assistant", "tool")]:
        return "bad_roles", f"role {strange[0]!r}: {OPENAI_STATUSES['bad_roles']}"
    names = [str(tool.get("function", {}).get("name", "")) for tool in line.get("tools", ())]
    if bad := [name for name in names if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)]:
        return "bad_tools", f"tool {bad[0]!r}: {OPENAI_STATUSES['bad_tools']}"
    return "ok", ""


def _within_limits(folder: Path, account: dict[str, Any]) -> dict[str, Any]:
    """Refuse files that OpenAI would; return what was checked, and what could not be."""
    n_ok = account["rows"].get("train.jsonl", {}).get("ok", 0)
    if n_ok < OPENAI_LEAST:
        raise PrerequisiteError(
            f"OpenAI takes {OPENAI_LEAST} examples or more, and {n_ok} can be written "
            f"({account['rows'].get('train.jsonl', {})}); approve more, or another adapter's examples (--adapter)."
        )
    n_long = 0
    for path in sorted(folder.iterdir()):
        if path.stat().st_size > OPENAI_MOST_BYTES:
            raise PrerequisiteError(
                f"{path.name} has {path.stat().st_size:,} bytes, and OpenAI takes {OPENAI_MOST_BYTES:,} a file; train "
                "an adapter on fewer examples, and export those."
            )
        # a token of theirs holds one byte or more, so that an example of fewer bytes than that is short enough
        with path.open("rb") as lines:
            n_long += sum(len(line) > OPENAI_MOST_TOKENS for line in lines)
    return {
        "length_unknown": n_long,
        "checked": f"at least {OPENAI_LEAST} examples, at most {OPENAI_MOST_BYTES:,} bytes a file, roles, an answer at "
        f"the end, names of tools; all but {n_long} examples are too short to exceed {OPENAI_MOST_TOKENS:,} tokens",
        "not_checked": "tokens by their tokenizer (their models cut a longer example at its end), moderation of "
        "contents, which models your account may train",
    }
