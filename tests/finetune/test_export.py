"""One chat a line, whole or not at all."""

import json

import polars as pl
import pytest
from toys import names_in, nurses, plain

from arislab import finetune

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
