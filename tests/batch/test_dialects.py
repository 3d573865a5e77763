"""The client reads the lines of each server that it names: the first word of a custom_id says as what."""

import json
import re

import pytest
from toys import CHECKOUT

from arislab.batch import AGAIN, ANSWERED, ASK, outcome
from arislab.batch.dialects import DIALECTS
from arislab.batch.protocol import parse, split

FOLDER = CHECKOUT / "tests" / "fixtures" / "dialects"
LINES = [(path.stem, line) for path in sorted(FOLDER.glob("*.jsonl")) for line in map(parse, split(path.read_bytes()))]


@pytest.mark.parametrize(("server", "line"), LINES, ids=[f"{s}:{x['custom_id']}" for s, x in LINES])
def test_a_line_is_read_as_what_it_is(server, line):
    read = outcome(line, "completed")
    assert read["status"] == line["custom_id"].partition("-")[0]
    assert read["status"] in (*ANSWERED, *AGAIN, *ASK)
    if read["status"] in ("ok", "truncated"):
        assert read["llm_output"].startswith("Paris")
        assert (read["prompt_tokens"], read["completion_tokens"]) == (12, 3)
        assert read["model_returned"].endswith("m")
    if read["status"] not in ANSWERED:
        error = json.loads(read["error"])
        assert re.search("[a-z]{4}|status 0", json.dumps(error)), "the error says nothing"
        assert read["llm_output"] is None


def test_each_dialect_has_its_lines():
    ours = {"arislab"}  # its lines are OpenAI's, and other tests read them from the real server
    assert {server for server, _ in LINES} == set(DIALECTS) - ours


def test_a_text_with_line_separators_is_one_line():
    content = (FOLDER / "openai.jsonl").read_bytes()
    assert "\u2028".encode() in content
    assert len(list(split(content))) == content.count(b"\n") < len(content.decode().splitlines())
