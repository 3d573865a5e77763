"""A connection says what it lacks before anything is sent."""

import gc
import json
import shutil
import subprocess
import sys

import pytest
from toys import serving

from arislab import batch
from arislab.batch import connection, sending
from arislab.errors import BatchError, ParameterError, PrerequisiteError
from arislab.tiny.decoder import MODEL_DIR


def test_nobody_at_the_address_is_one_clear_message(root):
    with pytest.raises(PrerequisiteError, match=r"nothing answers at http://127\.0\.0\.1:9/v1"):
        batch.connect("http://127.0.0.1:9/v1", folder=root)
    with pytest.raises(ParameterError, match="'embedded' or a URL"):
        batch.connect("localhost:8000", folder=root)


def test_a_wrong_key_is_one_clear_message_without_the_key(echo, root, monkeypatch):
    _, url = echo()
    monkeypatch.setenv("ARISLAB_API_KEY", "sk-planted-4711")
    with pytest.raises(PrerequisiteError, match="refuses") as caught:
        batch.connect(url, folder=root)
    assert "4711" not in str(caught.value)


def test_a_model_is_one_that_the_server_lists_or_knows_when_asked(scripted, monkeypatch, tmp_path):
    kind, url, folder = scripted
    kind.unlisted = "quiet-7b"
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(tmp_path))
    server = batch.connect(url, folder=folder)
    with pytest.raises(ParameterError, match="has no model 'larg'; did you mean 'large'"):
        server.model("larg")
    assert [server.model(name) for name in ("", "large", "quiet-7b")] == ["large", "large", "quiet-7b"]
    entries = [json.loads(line) for line in (tmp_path / "servers.jsonl").read_text().splitlines()]
    assert entries[0]["models"] == ["large"]
    assert [one["also"] for one in entries if "also" in one] == ["quiet-7b"]


@pytest.mark.slow
def test_the_embedded_server_serves_the_model_in_a_folder_that_base_url_names(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(tmp_path))
    shutil.copytree(MODEL_DIR, tmp_path / "mine-1b")
    with batch.connect(f"embedded:{tmp_path}/mine-1b", folder=tmp_path / "b", model_path="tiny") as server:
        assert (server.base_url, server.models) == ("embedded", ["mine-1b"])
    (entry,) = [json.loads(line) for line in (tmp_path / "servers.jsonl").read_text().splitlines()]
    assert entry["base_url"] == f"embedded:{tmp_path}/mine-1b"
    with pytest.raises(BatchError, match=r"no config\.json in"):
        batch.connect(f"embedded:{tmp_path}/nothing", folder=tmp_path / "c")


@pytest.mark.slow
def test_a_server_that_dies_is_started_again_whatever_is_asked_of_it(tmp_path):
    """Another port, and whoever kept the connection to the old one would wait for it in vain."""
    with batch.connect("embedded", folder=tmp_path) as server:
        for what in ("files", "batches"):
            server._process.kill()
            server._process.wait()
            assert sending.listed(server, what) == []


def test_a_server_that_is_killed_as_it_starts_says_so_and_nothing_of_earlier_starts(tmp_path, monkeypatch):
    class Killed(subprocess.Popen):
        def __init__(self, *words, **how):
            super().__init__(*words, **how)
            self.kill()

    log = tmp_path / "server" / "server.log"
    log.parent.mkdir()
    log.write_text("of an earlier start\n")
    monkeypatch.setattr(subprocess, "Popen", Killed)
    with pytest.raises(BatchError, match="did not start: it was killed"):
        batch.connect("embedded", folder=tmp_path)


@pytest.mark.slow
def test_a_server_that_has_not_ended_yet_is_waited_for(tmp_path):
    """As after a kill of the process that started it: nobody answers, and the lock is held still."""
    (tmp_path / "server").mkdir()
    code = "import pathlib, sys, time; from arislab.server import database; "
    code += "f = database.lock(pathlib.Path(sys.argv[1])); print(1, flush=True); time.sleep(4)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "server"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"1\n"
        with batch.connect("embedded", folder=tmp_path) as server:
            assert server.models
            assert holder.wait(10) == 0


def test_an_answer_is_timed_only_where_nobody_is_paid_for_it(echo, root, monkeypatch):
    _, url = echo()
    monkeypatch.setenv("ARISLAB_ROOT", str(root))
    own = batch.connect(url, folder=root)
    body = {"model": own.model(), "messages": [{"role": "user", "content": "how long?"}]}
    assert 0 < own.seconds(body) < 60
    assert own.seconds(body | {"messages": "none"}) is None  # no answer, no time
    own.about = {"engine": "upstream"}
    assert own.seconds(body) is None  # at whose expense is not known
    (root / "data").mkdir(exist_ok=True)
    price = (
        f'[[price]]\nmodel = "{body["model"]}"\nas_of = 2026-11-01\nsource = "a test"\nusd_per_million_prompt = 0.0\n'
    )
    for usd, is_timed in ((1.0, False), (0.0, True)):
        (root / "data/prices.toml").write_text(f"{price}usd_per_million_completion = {usd}\n")
        assert (own.seconds(body) is not None) == is_timed
    own.about = {}  # somebody else's
    assert own.seconds(body) is None


def test_who_is_let_go_of_unclosed_leaves_no_connection_open():
    with serving() as (faults, url):
        client = connection.client_of(url, None)
        assert [model.id for model in client.models.list()] == ["m"]
        assert faults.calls["models"] == 1
        web, ring = client._client, [client]
        ring.append(ring)
        del client, ring
        gc.collect()
        assert web.is_closed
