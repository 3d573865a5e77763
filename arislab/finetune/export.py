"""Examples as files for services and trainers elsewhere: OpenAI fine-tuning, Axolotl, LLaMA-Factory.

One line of each, and what is added where others would train on more than the last answer::

    {"messages": [{"role": "user", …}, {"role": "assistant", …, "weight": 0}, …, {"role": "assistant", …}]}

What it does not know: tokens of OpenAI's models, so that the length of an example there is bounded, not counted; and
whether a service accepts what the texts say.
"""

import collections
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from arislab import chat
from arislab.errors import ParameterError, PrerequisiteError, closest
from arislab.finetune import conversations, recipes
from arislab.system import files
from arislab.system.kinds import takes_any_frame

FORMATS = ("openai", "axolotl", "llama-factory")
OPENAI_LEAST, OPENAI_MOST_BYTES, OPENAI_MOST_TOKENS = 10, 512 * 10**6, 65_536
"""Fewest examples; largest file; longest example of gpt-4o and gpt-4o-mini (of gpt-3.5-turbo 16,385), beyond which they
cut it at its end. Source: OpenAI, guide to fine-tuning, and reference of the Files API."""


@takes_any_frame
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


@takes_any_frame
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
    trained, as here. A row that would be refused or dropped there is left out with a status: empty, bad_roles or
    bad_tools. Nothing is uploaded.

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
        PrerequisiteError: No example is in order there; of OpenAI: fewer than 10, or a file is too large.
        OSError: The folder cannot be written, or holds something.
    """
    if form not in FORMATS:
        raise ParameterError(f"format {form!r} is not known; {closest(form, FORMATS)}.")
    account: dict[str, Any] = {"training": tuned["id"], "data_version": tuned["data_version"], "form": form}
    account |= {"rows": {}, "left_out": {}, "files": {}}
    with files.made(Path(folder)) as part:
        _write_in_order(examples, part / "train.jsonl", tuned, form=form, account=account)
        if held_out.height:
            _write_in_order(held_out, part / "validation.jsonl", tuned, form=form, account=account)
        _check_least(account, OPENAI_LEAST if form == "openai" else 1)
        if form == "openai":
            account |= _within_limits(part)
        is_held_out = (part / "validation.jsonl").exists()
        for name, text in recipes.texts(form, tuned, base_model=base_model, is_held_out=is_held_out).items():
            files.replace(part / name, text)
        account["files"] = {path.name: files.of_file(path) for path in sorted(part.iterdir())}
        files.replace(part / "account.json", json.dumps(account, indent=1, ensure_ascii=False) + "\n")
    return account


def _write_in_order(
    rows: pl.DataFrame, path: Path, tuned: Mapping[str, Any], *, form: str, account: dict[str, Any]
) -> None:
    """Write the rows that are in order there, if any, and note the others."""
    # only templates, and so axolotl, may know a role developer
    role = json.loads(tuned["hyperparameters"]).get("system_role", "") if form != "openai" else "system"
    marks: dict[str, dict[str, Any]] = {"openai": {"weight": 0}, "axolotl": {"training": False}}
    chats = list(_chats(rows, system_role=role if form == "axolotl" else role or "system", mark=marks.get(form)))
    judged = [_JUDGES[form](line) for line in chats]
    account["rows"] |= {path.name: dict(sorted(collections.Counter(status for status, _ in judged).items()))}
    account["left_out"] |= {i: list(why) for i, why in zip(rows["id"], judged, strict=True) if why[0] != "ok"}
    kept = [line for line, (status, _) in zip(chats, judged, strict=True) if status == "ok"]
    if kept:
        _write(map(_sharegpt, kept) if form == "llama-factory" else kept, path)


def _check_least(account: Mapping[str, Any], least: int) -> None:
    counts = account["rows"]["train.jsonl"]
    if counts.get("ok", 0) < least:
        raise PrerequisiteError(
            f"{account['form']} takes {least} examples or more, and {counts.get('ok', 0)} can be written ({counts}); "
            "approve more, or take another adapter's examples (--adapter)."
        )


def _write(lines: Iterable[dict[str, Any]], path: Path) -> int:
    n = 0
    with files.written(path) as file:
        for line in lines:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            n += 1
    return n


def _chats(
    examples: pl.DataFrame, *, system_role: str = "", mark: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the examples as conversations; ``mark`` goes to the answers that are not trained."""
    for row in examples.iter_rows(named=True):
        before = chat.in_role(json.loads(row["messages"]), system_role)
        before = [m | mark if mark and m["role"] == "assistant" else m for m in before]
        line: dict[str, Any] = {"messages": [*before, chat.answer(row["output"], row.get("tool_calls"))]}
        yield line | ({"tools": json.loads(row["tools"])} if row.get("tools") else {})


def _for_openai(line: dict[str, Any]) -> tuple[str, str]:
    """Return status and reason of a conversation there."""
    messages, answer = line["messages"], line["messages"][-1]
    if not (answer["content"] or "").strip() and not answer.get("tool_calls"):
        return "empty", "the answer has no text and calls nothing"
    if strange := [m["role"] for m in messages if m["role"] not in ("system", "user", "assistant", "tool")]:
        return "bad_roles", f"role {strange[0]!r} is none of system, user, assistant, tool"
    names = [str(tool.get("function", {}).get("name", "")) for tool in line.get("tools", ())]
    if bad := [name for name in names if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)]:
        return "bad_tools", f"tool {bad[0]!r} has no name of 1 to 64 letters, digits, _ and -"
    return "ok", ""


def _for_llama_factory(line: dict[str, Any]) -> tuple[str, str]:
    """Return status and reason of a conversation there: what it would leave out with a line in its log."""
    turns = line["messages"][line["messages"][0]["role"] == "system" :]
    roles = ["user" if m["role"] == "tool" else m["role"] for m in turns]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        return "bad_roles", f"roles {[m['role'] for m in turns]} do not alternate as LLaMA-Factory takes them"
    if any(m.get("tool_calls") and (m.get("content") or "").strip() for m in turns):
        return "bad_tools", "a text stands beside calls, which LLaMA-Factory would lose"
    if any(conversations.arguments(call) is None for m in turns for call in m.get("tool_calls") or ()):
        return "bad_tools", "the arguments of a call are no JSON object"
    return "ok", ""


def _sharegpt(line: dict[str, Any]) -> dict[str, Any]:
    """Return a conversation as LLaMA-Factory reads it: calls as the text of a role of their own, tools as text."""
    messages = []
    for message in line["messages"]:
        role, content = message["role"], message["content"]
        if calls := message.get("tool_calls"):
            given = [{"name": c["function"]["name"], "arguments": conversations.arguments(c)} for c in calls]
            role, content = "function_call", json.dumps(given, ensure_ascii=False)
        messages.append({"role": role, "content": content})
    tools = json.dumps(line["tools"], ensure_ascii=False) if "tools" in line else ""
    return {"messages": messages, "tools": tools}


_JUDGES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "openai": _for_openai,
    "axolotl": lambda _: ("ok", ""),
    "llama-factory": _for_llama_factory,
}


def _within_limits(folder: Path) -> dict[str, Any]:
    """Refuse files that OpenAI would; return what was checked, and what could not be."""
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
