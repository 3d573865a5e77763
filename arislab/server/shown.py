"""Rows of the database as OpenAI's API shows them."""

import json

from arislab.server.database import Record


def batch_object(row: Record) -> Record:
    """A batch as OpenAI's API shows it."""
    shown = (
        "id endpoint input_file_id status output_file_id error_file_id created_at in_progress_at expires_at "
        "finalizing_at completed_at failed_at expired_at cancelling_at cancelled_at model"
    )
    return {
        "object": "batch",
        **{name: row[name] for name in shown.split()},
        "completion_window": "24h",
        "errors": {"object": "list", "data": json.loads(row["errors"])} if row["errors"] else None,
        "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
        "request_counts": {name: row[name] for name in ("total", "completed", "failed")},
        "usage": {
            "input_tokens": row["input_tokens"],
            "input_tokens_details": {"cached_tokens": row["cached_tokens"]},
            "output_tokens": row["output_tokens"],
            "output_tokens_details": {"reasoning_tokens": row["reasoning_tokens"]},
            "total_tokens": row["input_tokens"] + row["output_tokens"],
        },
    }


def model_object(name: str, root: str | None = None) -> Record:
    """A model as OpenAI's API shows it; ``root`` is the model that answers, where the name is an alias."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "arislab", "root": root or name}


def file_object(row: Record) -> Record:
    """A file as OpenAI's API shows it."""
    names = ("id", "bytes", "created_at", "expires_at", "filename", "purpose")
    return {"object": "file", "status": "processed", **{name: row[name] for name in names}}
