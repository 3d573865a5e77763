"""LoRA adapters from curated rows: what is learned from each, the process that trains, its record.

``settings`` and ``template`` are checked first; ``labels`` turns examples into tokens of which only the answer is
trained; ``training`` starts a ``worker`` for each set, where ``trainer`` trains (on a CPU in fewer passes: ``on_cpu``,
``shared_prefix``) and ``adapters`` writes; ``trained`` reads what they wrote. ``export`` (with ``recipes``) and
``merging`` (with ``cards``) write for other programs.

``preference`` goes on with an adapter, or begins one, by pairs of answers or by single verdicts (``pairs``, and
``preferring`` in its process).

It does not know which rows are good.
"""

from arislab.finetune.cards import Agreement, card
from arislab.finetune.conversations import STATUSES
from arislab.finetune.export import export_jsonl, export_training
from arislab.finetune.labels import count_statuses, tokenize
from arislab.finetune.likelihood import digests, identity, perplexities
from arislab.finetune.merging import export_model
from arislab.finetune.preference import prefer, preference_rows, told_apart
from arislab.finetune.previews import Preview, preview
from arislab.finetune.settings import Settings
from arislab.finetune.template import ChatTemplate, check_template
from arislab.finetune.trained import asked_as, losses, names, of_seeds, rows, started_from, with_control
from arislab.finetune.training import check, settle, train
from arislab.finetune.weights import base_fingerprint, compute_device, load_tokenizer, resolve_model

__all__ = [
    "STATUSES",
    "Agreement",
    "ChatTemplate",
    "Preview",
    "Settings",
    "asked_as",
    "base_fingerprint",
    "card",
    "check",
    "check_template",
    "compute_device",
    "count_statuses",
    "digests",
    "export_jsonl",
    "export_model",
    "export_training",
    "identity",
    "load_tokenizer",
    "losses",
    "names",
    "of_seeds",
    "perplexities",
    "prefer",
    "preference_rows",
    "preview",
    "resolve_model",
    "rows",
    "settle",
    "started_from",
    "tokenize",
    "told_apart",
    "train",
    "with_control",
]
