"""What the client does before it asks a server for several models.

It looks whether the server keeps them apart, and acts on it.
"""

import json
import re

import polars as pl
import pytest
from toys import NAMES, people, plant
from typer.testing import CliRunner

from arislab import batch, isolation
from arislab.batch import mixing
from arislab.cli.main import app
from arislab.errors import BatchError
from arislab.records import find as records
from arislab.runs import rerun


def ask(n=100, models=NAMES):
    def shout(candidate):
        return [{"role": "user", "content": candidate["profile"]["text"]}]

    return pl.concat([batch.build_requests(people(n), shout, model=name) for name in models])


def marks(rows):
    """How often each model's requests got which mark; a model of the toy marks its answers with its own."""
    marked = rows.with_columns(mark=pl.col("llm_output").str.extract(r"\((\w+)\)"))
    return {model: set(marked.filter(pl.col("model") == model)["mark"]) for model in marked["model"].unique()}


def send(url, folder, **more):
    return batch.submit(ask(**more), server=batch.connect(url, folder=folder), folder=folder, max_lines=50)


def states(*jobs):
    return [shard["state"] for job in jobs for shard in job.shards]


@pytest.mark.slow
def test_a_server_that_mixes_gets_one_model_at_a_time_and_all_answers_are_right(serve, tmp_path):
    _, proxy = serve("mixes,slow=1,slow_s=0.02")
    verdict = batch.isolation(batch.connect(proxy.url, folder=tmp_path / "b"), models=NAMES)
    assert (verdict.verdict, repr(verdict).count("this server gets one model at a time")) == ("mixes", 1)
    job = send(proxy.url, tmp_path / "b")
    assert (states(job), job.is_one_at_a_time()) == (["submitted"] * 2 + ["planned"] * 2, True)
    by_model = marks(job.wait(poll_s=0.05).collect())
    assert all(len(mine) == 1 for mine in by_model.values()), by_model
    assert by_model["faulty"] != by_model["faulty-1"]


@pytest.mark.parametrize(("spec", "verdict"), [("mixes", "mixes"), ("jitters=0.03", "isolated")])
def test_a_server_without_chat_is_examined_by_batches_and_until_then_gets_one_model_at_a_time(
    serve, tmp_path, spec, verdict
):
    _, proxy = serve(f"{spec},slow=1,slow_s=0.002", chats=False)
    job = send(proxy.url, tmp_path / "b", n=20)
    assert states(job) == ["submitted", "planned"]
    assert [len(its_marks) for its_marks in marks(job.wait(poll_s=0.05).collect()).values()] == [1, 1]
    assert batch.isolation(job.server, models=NAMES).verdict == verdict


@pytest.mark.slow
def test_the_same_server_answers_wrong_where_nobody_looks(serve, tmp_path, monkeypatch):
    _, proxy = serve("mixes,slow=1,slow_s=0.02")
    calm = isolation.Isolation("isolated", tuple(NAMES))
    monkeypatch.setattr(mixing, "known", lambda *_, **__: calm)
    assert len(marks(send(proxy.url, tmp_path / "b").wait(poll_s=0.05).collect())["faulty"]) == 2


@pytest.mark.slow
def test_a_server_that_keeps_models_apart_gets_them_together(serve, tmp_path):
    _, proxy = serve("jitters,slow=1,slow_s=0.02")
    assert batch.isolation(batch.connect(proxy.url, folder=tmp_path / "b"), models=NAMES).verdict == "isolated"
    job = send(proxy.url, tmp_path / "b")
    assert (states(job), job.is_one_at_a_time()) == (["submitted"] * 4, False)
    assert job.wait(poll_s=0.05).collect().height == 200


def test_where_even_one_at_a_time_fails_nothing_is_sent(serve, tmp_path):
    server, proxy = serve("sticks")
    for _ in range(2):
        with pytest.raises(
            BatchError, match=r"does not answer with the model that was asked\. isolation: fails alone; "
        ):
            batch.isolation(batch.connect(proxy.url, folder=tmp_path / "b"), models=NAMES)
    with pytest.raises(BatchError, match="fails alone"):
        send(proxy.url, tmp_path / "b")
    assert list(server.client.batches.list()) == []


def test_one_model_is_asked_without_a_probe(serve, tmp_path):
    _, proxy = serve("mixes")
    job = send(proxy.url, tmp_path / "b", models=NAMES[:1])
    assert job.wait(poll_s=0.05).collect().height == 100
    assert repr(batch.isolation(job.server, models=["faulty", "faulty"])).startswith(
        "isolation: one model; only faulty"
    )
    assert proxy.asked["chat"] == 0


@pytest.mark.slow
def test_a_result_is_kept_until_a_model_is_added(serve, tmp_path, monkeypatch):
    _, proxy = serve("models")
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("ARISLAB_RUN_DIR", str(tmp_path / "run"))
    first = batch.isolation(batch.connect(proxy.url, folder=tmp_path / "b"), models=NAMES)
    n_asked = proxy.asked["chat"]
    assert n_asked == first.n_requests + 1  # whether it chats at all
    with (tmp_path / "b" / "isolation.jsonl").open("a") as file:
        file.write('{"identity": "tor')  # a kill in mid-write
    server = batch.connect(proxy.url, folder=tmp_path / "b")
    assert batch.isolation(server, models=NAMES[::-1]) == first
    assert proxy.asked["chat"] == n_asked
    assert batch.isolation(server, models=[*NAMES, "faulty-2"]).models == (*NAMES, "faulty-2")
    assert proxy.asked["chat"] > n_asked + 100
    n_asked = proxy.asked["chat"]
    assert batch.isolation(server, models=[*NAMES, "faulty-2"]).models == (*NAMES, "faulty-2")
    assert proxy.asked["chat"] == n_asked, "a torn line must not swallow the next"
    assert mixing.known(server, NAMES, folder=server.folder).verdict == "isolated"
    server.models.append("loaded-since")
    assert mixing.known(server, NAMES, folder=server.folder) is None
    entries = [json.loads(line) for line in (tmp_path / "run" / "servers.jsonl").read_text().splitlines()]
    assert [t["isolation"]["verdict"] for t in entries if "isolation" in t] == ["isolated"] * 4


@pytest.mark.slow
def test_batches_of_another_process_wait_too(serve, tmp_path):
    """Two jobs of one model each: what one has on its way, the other does not stand beside while nothing is known."""
    _, proxy = serve("mixes,slow=1,slow_s=0.02")
    one = send(proxy.url, tmp_path / "b", models=NAMES[:1])
    other = send(proxy.url, tmp_path / "b", models=NAMES[1:])
    assert states(one, other) == ["submitted"] * 2 + ["planned"] * 2
    busy = batch.isolation(one.server, models=NAMES)
    assert (busy.verdict, busy.problem[:27]) == ("cannot tell", "batches are on their way to")
    by_job = [marks(job.wait(poll_s=0.05).collect()) for job in (one, other)]
    assert [len(its_marks) for part in by_job for its_marks in part.values()] == [1, 1]


def test_a_repeated_run_is_told_what_the_recorded_one_was_and_asks_nothing(tmp_path, monkeypatch):
    known = isolation.Isolation("mixes", tuple(NAMES), n_turned=7, n_could_show=9, example="…", n_requests=9)
    servers = [
        {"base_url": "http://x/v1", "identity": "i", "models": NAMES, "about": {}},
        {"base_url": "http://x/v1", "identity": "i", "isolation": known.as_dict()},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"connections": rerun._connections(servers)}) + "\n")
    monkeypatch.setenv("ARISLAB_REPLAY", str(path))
    with batch.connect("http://x/v1", folder=tmp_path / "b") as server:
        assert batch.isolation(server, models=NAMES[::-1]) == known
        assert batch.isolation(server, models=["a", "b"]).problem == "the run that is repeated did not ask"
    assert not (tmp_path / "b" / "isolation.jsonl").exists()


@pytest.mark.slow
def test_the_doctor_examines_on_demand_and_names_the_runs_that_asked_this_server(serve, root, tmp_path):
    _, proxy = serve("mixes")
    here = {"base_url": proxy.url, "identity": proxy.url}
    mixes = {**here, "isolation": {"verdict": "mixes"}}
    plant(root, "20261126T100000Z-evaluate-aaaa", servers=[{**here, "models": NAMES}])
    plant(root, "20261126T100001Z-finetune-bbbb", servers=[{**here, "models": NAMES}, mixes])
    plant(root, "20261126T100002Z-evaluate-cccc", servers=[{"base_url": "http://elsewhere/v1", "models": NAMES}])
    plant(root, "20261126T100003Z-icl-dddd", servers=[{**here, "models": NAMES}])
    given = ["batch", "doctor", "--base-url", proxy.url, "--models", "faulty, faulty-1", "--root", str(root)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("isolation: mixes; ")
    assert re.search(r"\[\d+ requests, \d+\.\d s, 20", lines[0])
    assert lines[1:] == [
        "2 runs of this root asked this server, newest first",
        "20261126T100001Z-finetune-bbbb  finetune  mixes",
        "20261126T100000Z-evaluate-aaaa  evaluate  not examined",
    ]
    said = json.loads(CliRunner().invoke(app, [*given, "--json"]).output)
    assert said["isolation"]["n_turned"] > 10
    assert [run["isolation"] for run in said["runs"]] == ["mixes", "not examined"]


def test_the_doctor_says_what_it_needs_and_ends_with_1_where_nothing_helps(serve, root):
    _, proxy = serve("sticks")
    given = ["batch", "doctor", "--base-url", proxy.url, "--root", str(root), "--models"]
    result = CliRunner().invoke(app, [*given, "faulty"])
    assert result.exit_code
    assert "must name two models or more" in str(result.exception) + result.output
    result = CliRunner().invoke(app, [*given, "faulty,faulty-1"])
    assert (result.exit_code, result.output.splitlines()[0][:24]) == (1, "isolation: fails alone; ")


def test_evaluations_under_a_server_that_mixes_or_that_nobody_examined_are_found_by_a_condition(root):
    plant(root, "20261126T100000Z-evaluate-aaaa", headline={"isolation": "mixes", "verdict": "hold"})
    plant(root, "20261126T100001Z-evaluate-bbbb", headline={"isolation": "isolated", "verdict": "hold"})
    plant(root, "20261126T100002Z-evaluate-cccc", headline={"verdict": "promote"})
    for where, ids in (("isolation = 'mixes'", ["aaaa"]), ("phase = 'evaluate' and isolation is null", ["cccc"])):
        assert [run["run_id"][-4:] for run in records.select(root, where=where)] == ids
