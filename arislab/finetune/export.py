"""Examples as chat JSONL, for services and trainers elsewhere."""

import json
from pathlib import Path

import polars as pl

from arislab import chat
from arislab.system import files


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
