"""The settings of a training as the configuration of another trainer.

The names are those that axolotl 0.18 and LLaMA-Factory 0.9.6 parse. What it does not know: whether they train the same
adapter from it: the order of rows, the precision and, in LLaMA-Factory, what is made of the chat template are theirs.
"""

import json
from collections.abc import Mapping
from typing import Any

_QUANTISED: dict[str, dict[str, Any]] = {
    "axolotl": {"adapter": "qlora", "load_in_4bit": True},
    "llama-factory": {"quantization_bit": 4},
}


def texts(
    form: str,
    tuned: Mapping[str, Any],
    *,
    base_model: str | None,
    is_held_out: bool,
) -> dict[str, str]:
    """Return what a trainer reads beside the examples: file name -> text; a service reads nothing.

    Args:
        form: ``openai``, ``axolotl`` or ``llama-factory``.
        tuned: A row of ``finetuning_runs``.
        base_model: What the trainer loads; null: the name that the row holds.
        is_held_out: Whether there is a validation.jsonl.
    """
    settings = json.loads(tuned["hyperparameters"])
    quantised: dict[str, Any] = _QUANTISED.get(form, {}) if tuned["method"] == "qlora" else {}
    base = base_model or tuned["base_model"]
    if form == "axolotl":
        return {"axolotl.yaml": _yaml(_axolotl(base, settings, is_held_out=is_held_out) | quantised, tuned)}
    if form == "llama-factory":
        info = {"arislab_train": _dataset("train.jsonl")}
        info |= {"arislab_validation": _dataset("validation.jsonl")} if is_held_out else {}
        train = _llama_factory(base, settings, is_held_out=is_held_out) | quantised
        return {"dataset_info.json": json.dumps(info, indent=1) + "\n", "train.yaml": _yaml(train, tuned)}
    return {}


def _yaml(recipe: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    import yaml

    head = (
        f"# Settings of training {tuned['id']} by arislab, on {tuned['data_version']}. Run it in this folder.\n"
        f"# The base is {tuned['base_model']}: a folder or a name on a hub, where that is none. bf16 is for a GPU.\n"
    )
    return head + str(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=110))


def _axolotl(base: str, settings: Mapping[str, Any], *, is_held_out: bool) -> dict[str, Any]:
    parts = settings["gradient_accumulation_steps"]
    recipe: dict[str, Any] = {
        "base_model": base,
        "adapter": "lora",
        "lora_r": settings["r"],
        "lora_alpha": settings["lora_alpha"],
        "lora_dropout": settings["lora_dropout"],
        "lora_target_linear": True,
        "chat_template": "tokenizer_default",
        "eot_tokens": settings["stop_tokens"],
        "datasets": [_examples("train.jsonl")],
        "sequence_len": settings["max_length"],
        "excess_length_strategy": "drop",  # never cut
        "sample_packing": False,
        "micro_batch_size": settings["batch_size"] // parts,
        "gradient_accumulation_steps": parts,
        "num_epochs": settings["num_train_epochs"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler": settings["lr_scheduler_type"],
        "warmup_steps": settings["warmup_steps"],
        "optimizer": settings["optim"],
        "bf16": "auto",
        "seed": settings["seed"],
        "output_dir": "out",
    }
    recipe |= {"test_datasets": [_examples("validation.jsonl")]} if is_held_out else {}
    kwargs = settings.get("chat_template_kwargs")
    return recipe | ({"chat_template_kwargs": kwargs} if kwargs else {})


def _examples(name: str) -> dict[str, Any]:
    file = {"path": name, "split": "train", "ds_type": "json", "type": "chat_template", "field_messages": "messages"}
    # earlier answers of a conversation say "training": false
    return file | {"message_field_training": "training", "roles_to_train": ["assistant"], "train_on_eos": "turn"}


def _llama_factory(base: str, settings: Mapping[str, Any], *, is_held_out: bool) -> dict[str, Any]:
    parts, thinking = settings["gradient_accumulation_steps"], settings.get("chat_template_kwargs") or {}
    recipe: dict[str, Any] = {
        # no `template`: it is parsed from the tokenizer's own
        "model_name_or_path": base,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": settings["r"],
        "lora_alpha": settings["lora_alpha"],
        "lora_dropout": settings["lora_dropout"],
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": "arislab_train",
        "mask_history": True,  # only the last answer is trained
        "cutoff_len": settings["max_length"],
        "per_device_train_batch_size": settings["batch_size"] // parts,
        "gradient_accumulation_steps": parts,
        "num_train_epochs": settings["num_train_epochs"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["lr_scheduler_type"],
        "warmup_steps": settings["warmup_steps"],
        "optim": settings["optim"],
        "bf16": True,
        "seed": settings["seed"],
        "output_dir": "out",
        "report_to": "none",
    }
    recipe |= {"eval_dataset": "arislab_validation", "eval_strategy": "epoch"} if is_held_out else {}
    return recipe | ({"enable_thinking": thinking["enable_thinking"]} if "enable_thinking" in thinking else {})


def _dataset(name: str) -> dict[str, Any]:
    # not "openai", which adds a line of its own to the instructions
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    tags |= {"observation_tag": "tool", "function_tag": "function_call", "system_tag": "system"}
    return {
        "file_name": name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "tools": "tools"},
        "tags": tags,
    }
