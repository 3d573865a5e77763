"""One chat a line, whole or not at all; and what OpenAI, Axolotl and LLaMA-Factory take, by their own rules."""

import dataclasses
import json

import polars as pl
import pytest
import yaml
from toys import names_in, nurses, plain

from arislab import finetune
from arislab.errors import ParameterError, PrerequisiteError
from arislab.finetune import export

USER = {"role": "user", "content": "hi"}


def test_export_writes_one_chat_per_line_with_the_answer_last(tmp_path):
    examples = pl.concat([nurses(range(3)), plain([USER], "line\u2028separator é\n")])
    path = tmp_path / "out" / "finetuning_data.jsonl"
    assert finetune.export_jsonl(examples, path) == 4
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    chats = [json.loads(line)["messages"] for line in lines]
    assert [chat[-1] for chat in chats] == [{"role": "assistant", "content": o} for o in examples["output"]]
    assert chats[0][:-1] == json.loads(examples["messages"][0])
    assert names_in(path.parent) == [path.name]


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "finetuning_data.jsonl"
    finetune.export_jsonl(nurses(range(3)), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Expecting"):
        finetune.export_jsonl(pl.concat([nurses(range(2)), plain("[", "yes")]), path)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == [path.name]


SETTINGS = {
    "method": "lora", "backend": "trl", "r": 4, "lora_alpha": 12, "seed": 3, "learning_rate": 0.0005,
    "num_train_epochs": 2, "max_length": 300, "batch_size": 8, "gradient_accumulation_steps": 4, "lora_dropout": 0.0,
    "optim": "adamw_torch_fused", "lr_scheduler_type": "cosine", "warmup_steps": 2, "stop_tokens": ["<|im_end|>"],
    "chat_template_kwargs": {"enable_thinking": False}, "system_role": "system",
}  # fmt: skip
TUNED = {
    "id": "ft-1", "base_model": "Qwen/Qwen3-0.6B", "data_version": "training_data_curated@3", "method": "lora",
    "hyperparameters": json.dumps(SETTINGS),
}  # fmt: skip
LONG = [
    {"role": "developer", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Score?"},
]


def conversations(n):
    """Examples of one question, and one, the last, of two."""
    rows = [*nurses(range(n - 1)).to_dicts(), {"id": "long", "messages": json.dumps(LONG), "output": "0.5"}]
    return pl.DataFrame(rows)


def written(folder, form, examples, *, held_out=0, **tuned):
    return finetune.export_training(
        examples, folder, held_out=nurses(range(50, 50 + held_out)), tuned=TUNED | tuned, form=form
    )


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def faults(line):
    """What OpenAI's own preparation of chat data (openai-cookbook, Chat_finetuning_data_prep) would object to."""
    known = {"role", "content", "name", "function_call", "weight"}
    return [
        *(["missing_messages_list"] if not line["messages"] else []),
        *("message_missing_key" for m in line["messages"] if not {"role", "content"} <= m.keys()),
        *("message_unrecognized_key" for m in line["messages"] if m.keys() - known),
        *("unrecognized_role" for m in line["messages"] if m["role"] not in ("system", "user", "assistant")),
        *("missing_content" for m in line["messages"] if not m["content"] or not isinstance(m["content"], str)),
        *([] if line["messages"][-1]["role"] == "assistant" else ["example_missing_assistant_message"]),
    ]


def test_openai_gets_chats_of_which_only_the_last_answer_is_trained(tmp_path):
    account = written(tmp_path / "out", "openai", conversations(12), held_out=2)
    assert names_in(tmp_path / "out") == ["account.json", "train.jsonl", "validation.jsonl"]
    chats = lines(tmp_path / "out/train.jsonl")
    assert len(chats) == 12
    assert [faults(chat) for chat in [*chats, *lines(tmp_path / "out/validation.jsonl")]] == [[]] * 14
    assert chats[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "Hello.", "weight": 0},
        {"role": "user", "content": "Score?"},
        {"role": "assistant", "content": "0.5"},
    ]
    assert account["rows"] == {"train.jsonl": {"ok": 12}, "validation.jsonl": {"ok": 2}}
    assert account["left_out"] == {}
    assert account["length_unknown"] == 0
    assert json.loads((tmp_path / "out/account.json").read_text()) == account


def test_a_row_that_openai_would_refuse_is_left_out_with_a_reason_and_one_that_may_be_too_long_is_counted(tmp_path):
    tool = json.dumps([{"type": "function", "function": {"name": "look up"}}])
    asked = json.dumps([USER])
    odd = pl.DataFrame([
        {"id": "critic", "messages": json.dumps([USER, USER | {"role": "critic"}]), "output": "y", "tools": None},
        {"id": "blank", "messages": asked, "output": " \n", "tools": None},
        {"id": "tool", "messages": asked, "output": "y", "tools": tool},
        {"id": "vast", "messages": asked, "output": "y " * 40_000, "tools": None},
    ])  # fmt: skip
    examples = pl.concat([odd, nurses(range(9)).with_columns(tools=pl.lit(None, dtype=pl.String))])
    account = written(tmp_path / "out", "openai", examples)
    assert account["rows"]["train.jsonl"] == {"bad_roles": 1, "bad_tools": 1, "empty": 1, "ok": 10}
    assert {name: why[0] for name, why in account["left_out"].items()} == {
        "critic": "bad_roles", "blank": "empty", "tool": "bad_tools",
    }  # fmt: skip
    assert "'critic'" in account["left_out"]["critic"][1]
    assert account["length_unknown"] == 1
    assert len(lines(tmp_path / "out/train.jsonl")) == 10


def test_files_that_would_be_refused_are_not_written(tmp_path, monkeypatch):
    with pytest.raises(PrerequisiteError, match=r"openai takes 10 examples or more, and 9 can be written"):
        written(tmp_path / "out", "openai", nurses(range(9)))
    monkeypatch.setattr(export, "OPENAI_MOST_BYTES", 2_000)
    with pytest.raises(PrerequisiteError, match=r"train\.jsonl has .* bytes, and OpenAI takes 2,000 a file"):
        written(tmp_path / "out", "openai", nurses(range(10)))
    bad = nurses([1]).with_columns(messages=pl.lit(json.dumps([USER, USER])))
    with pytest.raises(PrerequisiteError, match=r"llama-factory takes 1 examples or more, and 0 can"):
        written(tmp_path / "out", "llama-factory", bad)
    with pytest.raises(ParameterError, match="did you mean 'axolotl'"):
        written(tmp_path / "out", "axolotle", nurses(range(10)))
    assert names_in(tmp_path) == []


# axolotl 0.18.0, src/axolotl/utils/schemas: fields of its configuration and of SFTDataset that we use
AXOLOTL = {
    "base_model", "adapter", "load_in_4bit", "lora_r", "lora_alpha", "lora_dropout", "lora_target_linear",
    "chat_template", "eot_tokens", "datasets", "test_datasets", "sequence_len", "excess_length_strategy",
    "sample_packing", "micro_batch_size", "gradient_accumulation_steps", "num_epochs", "learning_rate",
    "lr_scheduler", "warmup_steps", "optimizer", "bf16", "seed", "output_dir", "chat_template_kwargs",
}  # fmt: skip
AXOLOTL_DATASET = {
    "path", "split", "ds_type", "type", "field_messages", "message_field_training", "roles_to_train", "train_on_eos",
}  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "bf16-lora"])
def test_axolotl_knows_no_method_but_lora_and_qlora(tmp_path, method):
    written(tmp_path / "out", "axolotl", conversations(3), method=method)
    recipe = yaml.safe_load((tmp_path / "out/axolotl.yaml").read_text())
    assert (recipe["adapter"], recipe["bf16"], recipe.get("load_in_4bit")) == ("lora", "auto", None)


@pytest.mark.parametrize("held_out", [0, 2])
def test_axolotl_finds_the_settings_and_trains_the_last_answer_alone(tmp_path, held_out):
    written(tmp_path / "out", "axolotl", conversations(3), held_out=held_out, method="qlora")
    recipe = yaml.safe_load((tmp_path / "out/axolotl.yaml").read_text())
    assert recipe.keys() <= AXOLOTL
    assert ("test_datasets" in recipe) == bool(held_out)
    data = recipe["datasets"] + recipe.get("test_datasets", [])
    assert names_in(tmp_path / "out") == sorted(["account.json", "axolotl.yaml", *(d["path"] for d in data)])
    expected = {
        "base_model": "Qwen/Qwen3-0.6B", "adapter": "qlora", "load_in_4bit": True, "lora_r": 4, "lora_alpha": 12,
        "lora_dropout": 0.0, "sequence_len": 300, "micro_batch_size": 2, "gradient_accumulation_steps": 4,
        "num_epochs": 2, "seed": 3, "learning_rate": 0.0005, "warmup_steps": 2, "eot_tokens": ["<|im_end|>"],
        "excess_length_strategy": "drop", "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert {key: recipe[key] for key in expected} == expected
    for dataset in data:
        assert dataset.keys() <= AXOLOTL_DATASET
        assert (dataset["type"], dataset["ds_type"]) == ("chat_template", "json")
        for line in lines(tmp_path / "out" / dataset["path"]):
            messages = line[dataset["field_messages"]]
            assert messages[0]["role"] == "system"
            # ChatTemplateStrategy: what a turn says of itself, else whether its role is trained
            trained = [
                m.get(dataset["message_field_training"], m["role"] in dataset["roles_to_train"]) for m in messages
            ]
            assert trained == [False] * (len(messages) - 1) + [True]


# LLaMA-Factory 0.9.6.dev0, src/llamafactory/hparams: its own arguments that we use, beside those of transformers
FACTORY = {
    "model_name_or_path", "stage", "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target",
    "dataset_dir", "dataset", "eval_dataset", "mask_history", "cutoff_len", "quantization_bit", "enable_thinking",
}  # fmt: skip


def converted(line, info):
    """An example as SharegptDatasetConverter of LLaMA-Factory reads it: instructions, roles, answer, tools."""
    tags, columns = info["tags"], info["columns"]
    to = {tags[f"{name}_tag"]: name for name in ("user", "assistant", "observation", "function", "system")}
    turns = [(to[m[tags["role_tag"]]], m[tags["content_tag"]]) for m in line[columns["messages"]]]
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    roles = [role for role, _ in turns]
    assert all(role in (("user", "observation"), ("assistant", "function"))[i % 2] for i, role in enumerate(roles))
    assert len(roles) % 2 == 0
    return system, roles, turns[-1][1], line[columns["tools"]]


@pytest.mark.parametrize("held_out", [0, 2])
def test_llama_factory_finds_the_examples_by_its_list_and_knows_every_setting(tmp_path, held_out):
    import transformers

    written(tmp_path / "out", "llama-factory", conversations(3), held_out=held_out)
    recipe = yaml.safe_load((tmp_path / "out/train.yaml").read_text())
    of_transformers = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert recipe.keys() <= FACTORY | of_transformers  # it refuses any other
    expected = {
        "lora_rank": 4, "lora_alpha": 12, "cutoff_len": 300, "per_device_train_batch_size": 2, "seed": 3,
        "gradient_accumulation_steps": 4, "num_train_epochs": 2, "learning_rate": 0.0005, "enable_thinking": False,
        "mask_history": True, "dataset_dir": ".",
    }  # fmt: skip
    assert {key: recipe[key] for key in expected} == expected
    info = json.loads((tmp_path / "out/dataset_info.json").read_text())
    assert list(info) == [recipe["dataset"], *([recipe["eval_dataset"]] if held_out else [])]
    read = [converted(line, info["arislab_train"]) for line in lines(tmp_path / "out" / "train.jsonl")]
    assert [answer for _, _, answer, _ in read] == conversations(3)["output"].to_list()
    assert read[-1][:2] == ("Be brief.", ["user", "assistant"] * 2)


def test_llama_factory_gets_calls_as_text_and_what_it_would_lose_is_left_out_with_a_reason(tmp_path):
    call = [{"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "é"}'}}]
    tools = json.dumps([{"type": "function", "function": {"name": "look_up", "parameters": {}}}])
    called, told = {"role": "assistant", "content": None, "tool_calls": call}, {"role": "tool", "content": "4"}
    torn = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
    beside = json.dumps({"content": "Let me see.", "tool_calls": call})
    rows = [
        {"id": "calls", "messages": [USER], "output": json.dumps(call), "tool_calls": json.dumps(call), "tools": tools},
        {"id": "told", "messages": [USER, called, told], "output": "four", "tool_calls": None, "tools": tools},
        {"id": "plain", "messages": [USER], "output": "yes", "tool_calls": None, "tools": None},
        {"id": "twice", "messages": [USER, called, told, told], "output": "four", "tool_calls": None, "tools": tools},
        {"id": "beside", "messages": [USER], "output": beside, "tool_calls": json.dumps(call), "tools": tools},
        {"id": "torn", "messages": [USER, torn, told], "output": "four", "tool_calls": None, "tools": tools},
    ]
    examples = pl.DataFrame([row | {"messages": json.dumps(row["messages"])} for row in rows])
    account = written(tmp_path / "out", "llama-factory", examples, method="qlora")
    info = json.loads((tmp_path / "out/dataset_info.json").read_text())["arislab_train"]
    assert info["formatting"] == "sharegpt"
    read = [converted(line, info) for line in lines(tmp_path / "out/train.jsonl")]
    as_text = '[{"name": "look_up", "arguments": {"word": "é"}}]'  # FunctionFormatter loads it
    assert read == [
        ("", ["user", "function"], as_text, tools),
        ("", ["user", "function", "observation", "assistant"], "four", tools),
        ("", ["user", "assistant"], "yes", ""),
    ]
    assert {name: why[0] for name, why in account["left_out"].items()} == {
        "twice": "bad_roles", "beside": "bad_tools", "torn": "bad_tools",
    }  # fmt: skip
    assert account["rows"]["train.jsonl"] == {"bad_roles": 1, "bad_tools": 2, "ok": 3}
    assert yaml.safe_load((tmp_path / "out/train.yaml").read_text())["quantization_bit"] == 4


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_folder_that_holds_something_stays_as_it_is(tmp_path, form):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        written(tmp_path / "out", form, nurses(range(10)))
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["mine"]
