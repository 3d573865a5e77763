"""The card of a model folder: what a person reads before using it.

It holds numbers, names and digests: no row, no text about a candidate, no path of this machine. What it does not know:
a licence, and whether the model may be given to others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

POLICIES = {
    "reviewed": "people approved or edited each example",
    "certified": "people approved or edited examples, or a certificate by sampled review approved them",
    "score": "examples that scorers chose; people need not have seen them, what they rejected is out",
}
_SETTINGS = [
    *("method", "r", "lora_alpha", "lora_dropout", "target_modules", "learning_rate", "lr_scheduler_type"),
    *("warmup_steps", "num_train_epochs", "steps", "batch_size", "gradient_accumulation_steps", "max_length"),
    *("optim", "seed", "stop_tokens", "chat_template_kwargs", "system_role", "versions"),
]
_SCORES = ("arm", "n", "n_missing", "mean", "low", "high")


@dataclass(frozen=True)
class Agreement:
    """How merged weights answer beside the adapter that they were made of."""

    n: int
    """Prompts."""
    n_equal: int
    """Prompts whose greedy answers are equal, token by token."""
    logit_difference: float
    """The largest between merged and adapter, at the first token of the answers."""
    logit_effect: float
    """The largest between adapter and base there: what the adapter does."""
    dtype: str
    """Of the merged weights."""
    seconds: float
    """To merge, write and compare."""


def card(
    manifest: Mapping[str, Any],
    tuned: Mapping[str, Any],
    *,
    roles: Mapping[str, int] | None = None,
    control: Mapping[str, Any] | None = None,
    scores: pl.DataFrame | None = None,
    gate: Mapping[str, Any] | None = None,
    forced: str | None = None,
    agreement: Agreement | None = None,
) -> str:
    """Return the card of an adapter, or of its merged weights, as Markdown with the front matter of model hubs.

    Args:
        manifest: Of the adapter's folder.
        tuned: Its row of ``finetuning_runs``.
        roles: What became of the examples of its training: role of ``training_rows`` -> count; null: not known.
        control: The row of ``finetuning_runs`` of the control trained beside it; null: there is none.
        scores: Its evaluation on test candidates, one row per arm, from ``evaluate.summary``: arm, n, n_missing, mean,
            low, high; null or empty: not evaluated.
        gate: The newest event of ``model_events`` in which a gate judged it: verdict, reason; null: none did.
        forced: Why it was promoted against its gate, or without one; null: it was not.
        agreement: Of merged weights with the adapter; null: the folder holds the adapter.
    """
    base, name = manifest["base"], f"{manifest['name']}-{manifest['arm']}-{tuned['adapter_sha256'][:12]}"
    what = "A LoRA adapter for" if agreement is None else "A LoRA adapter merged into"
    parts = [
        _front(base["name"], is_merged=agreement is not None),
        f"# {name}",
        f"{what} {base['name']}, whose weights have the sha256 `{base['sha256']}`. Others of the same shape load "
        "too, and answer nonsense.",
        "## What it learned from",
        *_data(manifest, tuned, roles, control),
        "## How it was judged",
        *_judged(tuned, scores, gate, forced),
        *([] if agreement is None else ["## Merged", _agreement(agreement)]),
        "## Settings",
        _table(("setting", "value"), [(key, _shown(value)) for key, value in _settings(manifest).items()]),
        "## Use",
        _use(manifest, is_merged=agreement is not None),
        "## Limits",
        "Judged on the task that it was trained for, and on nothing else; what it lost of the base's other "
        "abilities is not measured here. Its examples may be about people: whether it can repeat what they held is not "
        "measured. A decision about a person needs a person.",
        "## Licence",
        "**To be filled in** by whoever gives this to others: the base's licence, and the rights in the examples, come "
        "first.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(base: str, *, is_merged: bool) -> str:
    lines = ["---", f"library_name: {'transformers' if is_merged else 'peft'}", "pipeline_tag: text-generation"]
    # a hub would make a link of any other name, and it would lead nowhere
    lines += [f"base_model: {base}"] if base.count("/") == 1 else []
    return "\n".join([*lines, "tags:", "- lora", "- arislab", "---"])


def _data(
    manifest: Mapping[str, Any],
    tuned: Mapping[str, Any],
    roles: Mapping[str, int] | None,
    control: Mapping[str, Any] | None,
) -> list[str]:
    policy = tuned["approve_policy"]
    counts = {role: n for role, n in (roles or {}).items() if role not in ("trained", "held out")}
    rows = [
        ("examples", f"{tuned['training_examples']:,} ({manifest['arm']})"),
        ("held out for the loss", f"{roles.get('held out', 0):,}" if roles else "not known"),
        (
            "left out",
            ", ".join(f"{n:,} {role}" for role, n in sorted(counts.items())) or ("none" if roles else "not known"),
        ),
        ("approval", f"{policy}: {POLICIES[policy]}" if policy in POLICIES else "not recorded"),
        ("version of the data", tuned["data_version"] or "not recorded"),
        ("sha256 of the tokens", f"`{manifest['data_sha256']}`"),
        ("training", f"{tuned['id']}, on {tuned['device'] or 'a machine not recorded'}"),
    ]
    beside = "No control was trained beside it: what choosing the examples is worth is not known."
    if tuned["arm"] == "control":
        beside = f"It is a control: nothing chose what it learned from (drawn: {tuned.get('drawn') or 'not recorded'})."
    elif control is not None:
        how = f"drawn: {control['drawn']}" if control.get("drawn") else "how drawn is not recorded"
        beside = (
            f"Beside it a control was trained on {control['training_examples']:,} outputs that nothing chose ({how}), "
            f"with the same settings: {control['model_path']}."
        )
    return [_table(("what", "value"), rows), beside]


def _judged(
    tuned: Mapping[str, Any], scores: pl.DataFrame | None, gate: Mapping[str, Any] | None, forced: str | None
) -> list[str]:
    losses = [("loss on its examples, last epoch", tuned["train_loss"]), ("loss held out", tuned["eval_loss"])]
    losses += [("mean quality on validation candidates", tuned["validation_score"])]
    measured = _table(("what", "value"), [(what, _number(value)) for what, value in losses])
    said = ["No gate judged it."] if gate is None else [f"Its gate said **{gate['verdict']}**: {gate['reason']}."]
    said += [] if forced is None else [f"**It was promoted by force**, against its gate or without one: {forced}."]
    if scores is None or not scores.height:
        return [measured, "**Not evaluated** on test candidates (arislab run evaluate).", *said]
    rows = [
        (
            s["arm"],
            f"{s['n']:,}",
            f"{s['n_missing']:,}",
            _number(s["mean"]),
            f"{_number(s['low'])} to {_number(s['high'])}",
        )
        for s in scores.to_dicts()
    ]
    head = ("arm", "n", "no score", "mean quality", "95 % interval")
    return [
        measured,
        "On test candidates, quality 0 to 1 by the scorers that the task reports with:",
        _table(head, rows),
        *said,
    ]


def _agreement(agreement: Agreement) -> str:
    return (
        f"In float32 into the unquantised base, cast once to {agreement.dtype}. {agreement.n_equal:,} of "
        f"{agreement.n:,} greedy answers are those of the adapter; at their first token logits differ by at most "
        f"{agreement.logit_difference:.2g}, where the adapter moves the base's by up to {agreement.logit_effect:.2g}."
    )


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    known = manifest["hyperparameters"]
    return {key: known[key] for key in _SETTINGS if known.get(key) not in (None, "", {})}


def _use(manifest: Mapping[str, Any], *, is_merged: bool) -> str:
    load = 'AutoModelForCausalLM.from_pretrained("THIS_FOLDER")'
    if not is_merged:
        load = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE_FOLDER"), "THIS_FOLDER")'
    kwargs = manifest["hyperparameters"].get("chat_template_kwargs")
    asked = f" Ask with `chat_template_kwargs` {json.dumps(kwargs)}." if kwargs else ""
    stops = ", ".join(f"`{token}`" for token in manifest["hyperparameters"]["stop_tokens"])
    return (
        f"```python\nmodel = {load}\n```\n\nThe chat template lies in the folder; an answer ends with {stops}.{asked}"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
