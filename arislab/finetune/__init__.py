"""LoRA adapters from curated rows: what is learned from each, the process that trains, its record.

It does not know which rows are good.
"""

from arislab.finetune.labels import (
    STATUSES,
    ChatTemplate,
    Preview,
    check_template,
    count_statuses,
    load_tokenizer,
    preview,
    tokenize,
)
from arislab.finetune.training import asked_as, check, export_jsonl, losses, rows, train
from arislab.finetune.weights import compute_device, resolve_model

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
