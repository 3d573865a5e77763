"""An adapter as a folder that Hugging Face takes: as it is, or merged into its base, with a card.

Merged in float32 into the base as it lies in its folder, cast once to the base's own type. Before the folder gets its
name, the written weights answer real prompts: greedy, beside base and adapter, both computed in float32, so that what
differs is what merging and casting changed.

What it does not know: other prompts, sampling, and how another engine computes.
"""

import gc
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from arislab.errors import PrerequisiteError, TrainingError
from arislab.finetune import adapters, cards
from arislab.finetune.cards import Agreement
from arislab.finetune.labels import NOT_TRAINED, tokenize
from arislab.finetune.weights import base_fingerprint, resolve_model
from arislab.system import files
from arislab.system.imports import require

LEAST_EQUAL = 0.99
"""Share of the greedy answers that must be equal for merged weights to be written."""


def export_model(
    adapter: str | Path,
    folder: str | Path,
    tuned: Mapping[str, Any],
    *,
    base_model: str | Path | None = None,
    prompts: pl.DataFrame | None = None,
    n_prompts: int = 20,
    max_new_tokens: int = 64,
    **facts: Any,
) -> Agreement | None:
    """Write an adapter as a folder with a card that other programs load; nothing is uploaded.

    Without base_model the adapter itself, for PEFT and vLLM; with it the weights of both together, for any program
    that loads models. README.md is the card, manifest.json says what it was made of.

    Args:
        adapter: Folder of an adapter that was trained here.
        folder: Made whole or not at all; must not exist, or be empty.
        tuned: Its row of ``finetuning_runs``.
        base_model: What it was trained on: a folder, ``tiny``, or a name in the local cache; its weights' digest is
            compared. Null: not merged.
        prompts: Examples that merged weights are asked about: columns id, messages, output; tools and tool_calls, if
            present. Those of no training say most.
        n_prompts: The first of these, at most.
        max_new_tokens: Longest answer that is compared.
        facts: As in ``card``: scores, roles, control, gate.

    Raises:
        PrerequisiteError: Files of the adapter were changed, the base is another, or there is no prompt to compare.
        TrainingError: The merged weights answer otherwise; nothing is written.
        OSError: The folder cannot be written, or holds something.
    """
    adapter = Path(adapter)
    manifest = _verified(adapter)
    base = None if base_model is None else _base(base_model, manifest)
    agreement = None
    with files.made(Path(folder)) as part:
        for name in manifest["files"]:
            if base is None or name in adapters.TOKENIZER_FILES:
                shutil.copyfile(adapter / name, part / name)
        if base is not None:
            asked = _prompts(base, manifest, prompts, n_prompts)
            agreement = _merged(adapter, base, part, manifest, asked=asked, max_new_tokens=max_new_tokens)
        files.replace(part / "README.md", cards.card(manifest, tuned, agreement=agreement, **facts))
        digests = {path.name: _sha256(path) for path in sorted(part.iterdir())}
        made = {"merged": None if agreement is None else asdict(agreement), "files": digests}
        made |= {"adapter_files": manifest["files"]}
        files.replace(part / "manifest.json", json.dumps(manifest | made, indent=2, sort_keys=True) + "\n")
    return agreement


def _verified(adapter: Path) -> dict[str, Any]:
    """Return the manifest of an adapter whose files are those that were written."""
    try:
        manifest: dict[str, Any] = json.loads((adapter / "manifest.json").read_text("utf-8"))
        written = dict(manifest["files"])
    except (OSError, ValueError, TypeError, KeyError):
        raise PrerequisiteError(
            f"{adapter} has no manifest.json that can be read: it is no adapter that was trained here, or it was "
            "damaged; train it again (arislab run finetune)."
        ) from None
    changed = [name for name, digest in written.items() if _sha256(adapter / name) != digest]
    if changed:
        raise PrerequisiteError(
            f"{', '.join(changed)} of {adapter} is missing or not what was written when it was trained; take the "
            "folder from a backup, or train it again (arislab run finetune)."
        )
    return manifest


def _base(base_model: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Return the folder of the base that the adapter was trained on, or say that it is another."""
    base, wanted = resolve_model(base_model), manifest["base"]
    given = base_fingerprint(base)
    if given["sha256"] != wanted["sha256"]:
        # of the same shape, it would load without a word and answer nonsense
        raise PrerequisiteError(
            f"{manifest['name']}-{manifest['arm']} was trained on {wanted['name']} (sha256 {wanted['sha256'][:12]}), "
            f"and base_model {str(base_model)!r} is another ({given['sha256'][:12]}); give the folder of that one "
            "(--base-model)."
        )
    if "quantization_config" in json.loads((base / "config.json").read_text("utf-8")):
        raise PrerequisiteError(f"{base} is quantised; merging needs the weights that it was made of.")
    return base


def _prompts(base: Path, manifest: Mapping[str, Any], examples: pl.DataFrame | None, n: int) -> list[list[int]]:
    """Return the token ids of what servers are asked, of the first examples that can be."""
    found: list[list[int]] = []
    if examples is not None:
        settings = manifest["hyperparameters"]
        how = {"chat_template_kwargs": settings["chat_template_kwargs"], "max_length": settings["max_length"]}
        usable = tokenize(examples, base, **how).filter(pl.col("status") == "ok").head(n)
        pairs = usable.select("input_ids", "labels").iter_rows()
        found = [ids[: sum(label == NOT_TRAINED for label in labels)] for ids, labels in pairs]
    if not found:
        raise PrerequisiteError(
            "there is no example to compare merged weights and adapter on, and unseen they are not written; export the "
            "adapter itself (without --merged)."
        )
    return found


def _merged(
    adapter: Path,
    base: Path,
    folder: Path,
    manifest: Mapping[str, Any],
    *,
    asked: list[list[int]],
    max_new_tokens: int,
) -> Agreement:
    """Write merged weights into a folder, and compare what they answer; or refuse them."""
    require("merging", 'pip install "arislab[train]"', "torch", "transformers", "peft")
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(base)
    stops = _stop_ids(base, tokenizer, manifest["hyperparameters"]["stop_tokens"])
    how = {"max_new_tokens": max_new_tokens, "eos_token_id": stops, "pad_token_id": stops[0]}
    how = {"generation_config": GenerationConfig(do_sample=False, **how)}
    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with model.disable_adapter():
        before = _first_logits(model, asked)
    reference, answers = _first_logits(model, asked), _answers(model, asked, how)
    whole = model.merge_and_unload(safe_merge=True).to(dtype)
    whole.generation_config = GenerationConfig()  # the base's own may hold what cannot be saved
    with _disk(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers warns of what it calls itself
        whole.save_pretrained(folder)
    _write_generation_config(base, folder, stops)
    del model, whole
    gc.collect()  # one copy in memory at a time
    written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found, logits = _answers(written, asked, how), _first_logits(written, asked)
    n_equal = sum(a == b for a, b in zip(answers, found, strict=True))
    difference, effect = ((reference - other).abs().max().item() for other in (logits, before))
    if n_equal < LEAST_EQUAL * len(asked) or not difference < effect:
        raise TrainingError(
            f"merged weights of {adapter.name} answer {n_equal} of {len(asked)} prompts as the adapter does (at least "
            f"{LEAST_EQUAL:.0%} must be equal); logits differ by up to {difference:.3g}, where the adapter itself "
            f"moves them by {effect:.3g} (that must be more). Nothing was written; serve the adapter as it is."
        )
    seconds = round(time.monotonic() - started, 1)
    return Agreement(len(asked), n_equal, difference, effect, str(dtype).removeprefix("torch."), seconds)


def _first_logits(model: Any, asked: list[list[int]]) -> Any:
    """Return the logits of the token after each prompt: one row per prompt."""
    import torch

    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids]), use_cache=False).logits[0, -1].float() for ids in asked])


def _answers(model: Any, asked: list[list[int]], how: Mapping[str, Any]) -> list[list[int]]:
    import torch

    out = []
    for ids in asked:  # one by one: padding would add the same numbers in another order
        given = torch.tensor([ids])
        whole = model.generate(input_ids=given, attention_mask=torch.ones_like(given), **how)
        out.append(whole[0, len(ids) :].tolist())
    return out


def _stop_ids(base: Path, tokenizer: Any, stop_tokens: list[str]) -> list[int]:
    """Return at what an answer ends: the token that was trained first, the tokenizer's, and those of the base."""
    path = base / "generation_config.json"
    known = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.exists() else None
    of_base = known if isinstance(known, list) else [known]
    ends = [*tokenizer.convert_tokens_to_ids(stop_tokens), tokenizer.eos_token_id, *of_base]
    return list(dict.fromkeys(end for end in ends if end is not None))


def _write_generation_config(base: Path, folder: Path, stops: list[int]) -> None:
    path = base / "generation_config.json"
    config = json.loads(path.read_text("utf-8")) if path.exists() else {}
    config |= {"eos_token_id": stops}
    files.replace(folder / "generation_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def _disk() -> Iterator[None]:
    """Say in Python's own words that weights could not be written."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from None


def _sha256(path: Path) -> str:
    return str(files.of_file(path)["sha256"]) if path.is_file() else ""
