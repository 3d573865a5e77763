"""Work spread by Daft gives what one process gives, and says in one line what went wrong."""

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from nbclient import NotebookClient
from toys import arislab, need, play

from arislab import cluster, duplicates, scoring, structured
from arislab.curate.selection import near_duplicates
from arislab.duplicates import pairs, spread
from arislab.errors import ParameterError, PrerequisiteError, TaskError
from arislab.lake import Lake, digests
from arislab.system import on_ray, spilled
from arislab.task import FAILED, load

TASK = """
import os, time

SYSTEM = ""
SCHEMA = {"type": "object", "required": ["says"]}


def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["input"]}]


def long(output):
    return min(1, len(output) / 400)


def agrees(output, others):
    return None if not others else sum(o[:24] == output[:24] for o in others) / len(others)


def weak(output, custom_id):
    n = int(custom_id[-3:], 16)
    if n % 251 == 7:
        raise ValueError("no number")
    if n == 9:
        os._exit(3)
    if n == 11:
        time.sleep(60)
    return n % 100 / 100


SCORERS = {"long": long, "agrees": agrees, "weak": weak}
WEIGHTS = {"long": 0.5, "agrees": 0.3, "weak": 0.2}
"""


@pytest.fixture(scope="module")
def engine():
    return "daft"


def words(chance, n):
    return ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(3, 8))) for _ in range(n)]


def texts(n, n_copies, seed):
    """Questions in one form, some asked twice; answers of which many are near-copies of one, others of each other."""
    chance = random.Random(seed)
    known = words(chance, 900)
    copied = chance.choices(known, k=60)
    rows = []
    for i in range(n):
        question = f"Say in plain words what you think of this and of that, number {i // 2}: "
        question += " ".join(chance.choices(known, k=12))
        answer = chance.choices(known, k=chance.randint(2, 70))
        if i < n_copies:
            question, answer = "About the copied", [*copied[: i % 60], chance.choice(known), *copied[i % 60 + 1 :]]
        elif rows and i % 5 == 0:
            question, answer = rows[chance.randrange(len(rows))]
            answer = [*answer.split(), chance.choice(["indeed", "7", "-", "so it is"])]
        rows.append((question, " ".join(answer)))
    chance.shuffle(rows)
    return pl.DataFrame(rows, schema=["input", "output"], orient="row")


def twice(number):
    if number == 40:
        raise TaskError("forty is refused")
    return 2 * number


def test_a_function_is_called_on_each_item_and_answers_in_their_order(engine):
    assert list(cluster.connect(engine).map(twice, range(37))) == list(range(0, 74, 2))
    assert list(cluster.connect(engine).map(twice, [])) == []


def test_large_items_are_sent_a_few_at_a_time(engine, monkeypatch):
    import daft

    sent, send = [], daft.from_pydict
    monkeypatch.setattr(cluster, "_BYTES", 2_500)
    monkeypatch.setattr(daft, "from_pydict", lambda columns: sent.append(len(columns["item"])) or send(columns))
    assert list(cluster.connect(engine).map(len, ["x" * 1_000] * 7)) == [1_000] * 7
    assert sent == [3, 3, 1]


def test_an_error_of_ours_comes_back_as_it_is(engine):
    with pytest.raises(TaskError, match=r"^forty is refused$"):
        list(cluster.connect(engine).map(twice, range(38, 45)))


def test_an_engine_that_fails_says_so_in_one_line(engine, monkeypatch):
    import daft
    from daft.exceptions import DaftCoreException

    def lost(*_):
        raise DaftCoreException("first\nDaftError::External node 7 is gone")

    many = cluster.connect(engine)
    monkeypatch.setattr(daft.DataFrame, "to_pydict", lost)
    monkeypatch.setattr(daft.DataFrame, "to_arrow_iter", lost)
    expected = r"^engine 'daft' failed: DaftError::External node 7 is gone\. Nothing was written; run again, or leave"
    with pytest.raises(PrerequisiteError, match=expected):
        list(many.map(twice, [1]))
    with pytest.raises(PrerequisiteError, match=expected):
        list(many.rows(pa.table({"a": [1]})).batches())


def test_rows_are_mapped_grouped_and_joined(engine):
    rows = cluster.connect(engine).rows(pa.table({"a": np.arange(1000), "b": np.arange(1000) % 7}))

    def halves(table):
        even = table.filter(pa.array(np.array(table["a"]) % 2 == 0))
        return pa.table({"a": even["a"], "c": [[1, 2]] * len(even)})

    def sums(table):
        return pa.table({"total": [int(np.array(table["a"]).sum())]})

    pairs = pa.schema([("a", pa.int64()), ("c", pa.large_list(pa.uint32()))])
    even = rows.map(halves, pairs)
    assert sorted(a for batch in even.batches(["a"]) for a in batch.column("a").to_pylist()) == list(range(0, 1000, 2))
    totals = rows.grouped("b", sums, pa.schema([("total", pa.int64())]))
    expected = sorted(sum(range(b, 1000, 7)) for b in range(7))
    assert sorted(t for batch in totals.batches() for t in batch.column("total").to_pylist()) == expected
    joined = even.joined(rows.renamed({"a": "a", "b": "d"}), "a")
    got = [row for batch in joined.batches() for row in batch.to_pylist()]
    assert sorted(got, key=lambda row: row["a"]) == [{"a": a, "c": [1, 2], "d": a % 7} for a in range(0, 1000, 2)]


@pytest.mark.parametrize("counted", [0, pairs.COUNTED])  # shingles of questions compared by the engine, and here
@pytest.mark.parametrize(("n", "n_copies", "threshold"), [(6_000, 0, 0.8), (5_000, 3_000, 0.8), (3_000, 900, 0.5)])
def test_near_duplicates_are_those_of_one_process(engine, n, n_copies, threshold, counted, monkeypatch):
    monkeypatch.setattr(spread, "COUNTED", counted)
    rows = texts(n, n_copies, seed=n)
    how = {"threshold": threshold, "questions": ("input",)}
    here, score = duplicates.stars(rows, **how)
    there, spread_score = duplicates.stars(rows, **how, engine=engine)
    assert (here != np.arange(n)).sum() > n / 20
    assert np.array_equal(here, there)
    assert np.array_equal(score, spread_score)


def test_what_most_questions_say_counts_for_nothing_there_too(engine):
    """A form of which 80 words are the same: with them all rows of one answer would be one."""
    chance = random.Random(1)
    known = words(chance, 900)
    form = " ".join(words(chance, 80))
    asked = [f"{form} {' '.join(chance.choices(known, k=6))}" for _ in range(3_000)]
    rows = pl.DataFrame({"row": asked, "text": ["Yes, I think that it is so."] * 3_000})
    here, there = (duplicates.stars(rows, questions=("row",), engine=one) for one in ("", engine))
    every, _ = duplicates.stars(rows, engine=engine)
    assert np.array_equal(here[0], there[0])
    assert np.array_equal(here[1], there[1])
    assert ((there[0] == np.arange(3_000)).sum(), (every == np.arange(3_000)).sum()) == (3_000, 1)


def test_texts_that_are_large_are_sent_from_disk(engine, monkeypatch):
    rows = texts(3_000, 300, seed=4)
    here = duplicates.stars(rows)
    monkeypatch.setattr(spilled, "LARGE", 1)
    there = duplicates.stars(rows, engine=engine)
    assert [np.array_equal(a, b) for a, b in zip(here, there, strict=True)] == [True, True]


QUIET = """
import random
import polars as pl
from arislab import duplicates
texts = [" ".join(random.choices("abcdefghijk", k=3000)) for _ in range(6_000)]
_ = duplicates.stars(pl.DataFrame({"output": texts}), engine="daft")
"""


@pytest.mark.slow
def test_the_engine_leaves_no_bars_in_a_notebook():
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(QUIET)])
    NotebookClient(book, timeout=300, kernel_name="python3").execute()
    assert book.cells[0].outputs == []


def test_few_rows_are_compared_here(monkeypatch):
    def refused(*_, **__):
        raise AssertionError

    monkeypatch.setattr(spread, "stars", refused)
    rows = texts(1_500, 100, seed=3).with_row_index("custom_id").with_columns(pl.col("custom_id").cast(pl.String))
    marked = near_duplicates(rows, on=["input", "output"], prefer=None, engine="daft")
    assert marked["duplicate_of"].count() > 50


@pytest.mark.slow
def test_scores_and_failures_are_those_of_workers(engine, tmp_path):
    path = tmp_path / "task.py"
    path.write_text(TASK)
    task, n = load(path), 1_200
    said = texts(n, 0, seed=1)["output"]
    frame = pl.DataFrame({"custom_id": [f"r{i:03x}" for i in range(n)], "output": said}).with_columns(
        candidate_id=pl.Series([f"c{i // 3}" for i in range(n)]),
        output=pl.when(pl.int_range(n) % 50 != 0).then("output"),
    )
    how = {"max_failures": 0.1, "timeout_s": 0.5}
    here, there = (scoring.score(frame, task, **how, engine=one) for one in ("", engine))
    assert here.equals(there)
    reasons = there.filter(pl.col("reason").str.starts_with(FAILED))["reason"].to_list()
    kinds = ("ValueError: no number", "it ended its process (exit code 3)", "it took more than 0.5 s")
    assert [sum(kind in reason for reason in reasons) for kind in kinds] == [5, 1, 1]
    messages = []
    for one in ("", engine):
        with pytest.raises(TaskError, match=r"scorers failed on 7 of 1,176 rows, most often: 5 times") as caught:
            scoring.score(frame, task, max_failures=6 / 1_176, timeout_s=0.5, engine=one)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_function_that_no_file_holds_is_called_here(engine, task_file):
    task = load(task_file)
    own = replace(task, scorers={"own": lambda output: 0.5}, weights={"own": 1})
    frame = pl.DataFrame({"custom_id": ["a"] * 300, "candidate_id": ["c"] * 300, "output": ["x"] * 300})
    assert scoring.score(frame, own, engine=engine)["quality"].to_list() == [0.5] * 300


def test_answers_are_checked_and_repaired_as_here(engine):
    said = [json.dumps({"says": i}) if i % 3 else f"{{'says': {i}" if i % 2 else "prose" for i in range(11_000)]
    frame = pl.DataFrame({"output": [None, *said]})
    schema = {"type": "object", "required": ["says"]}
    here, there = (structured.check(frame, schema, repair=True, engine=one) for one in ("", engine))
    assert here.equals(there)
    assert there["repaired"].sum() > 1_000
    with pytest.raises(TaskError, match="nothing is fetched"):
        structured.check(frame, {"$ref": "http://elsewhere/schema"}, engine=engine)


@pytest.mark.parametrize("given", ["spark", "daft@", "Daft", "@auto", 7, True])
def test_an_engine_that_is_none_is_refused_with_what_is(given):
    with pytest.raises(ParameterError, match=r"engine must be empty, 'daft' or 'daft@ADDRESS'"):
        cluster.connect(given)


def test_without_daft_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "daft", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "daft" else find(name))
    cluster.connect.cache_clear()
    with pytest.raises(PrerequisiteError, match=r'engine .daft. needs daft, .*pip install "arislab\[daft\]"'):
        cluster.connect("daft")


@pytest.mark.slow
def test_a_curation_by_an_engine_is_that_of_one_process(tmp_path, monkeypatch):
    task, file = tmp_path / "told.py", tmp_path / "outputs.parquet"
    quick = 'SCORERS = {"long": long, "agrees": agrees}\nWEIGHTS = {"long": 2, "agrees": 1}\n'
    task.write_text(TASK.split("def weak")[0] + quick + 'GOLD = [{"output": "x" * 400, "others": ["x" * 400]}]\n')
    rows = texts(5_000, 400, seed=9)
    said = [json.dumps({"says": text}) if i % 9 else text for i, text in enumerate(rows["output"])]
    rows.select(q="input", a=pl.Series(said), m=pl.lit("m")).write_parquet(file)
    tables = {}
    for engine in ("", "daft"):
        root = tmp_path / f"root-{engine}"
        monkeypatch.setenv("ARISLAB_ROOT", str(root))
        columns = ["--input", "q", "--output", "a", "--model", "m"]
        arislab("import", file, "--as", "outputs", "--task", task, *columns, root=root)
        names = play("2_curate", root, task=str(task), engine=engine, repair=True)
        assert names["marked"]["duplicate_of"].count() > 400
        lake = Lake(root / "data" / "lake")
        tables[engine] = {name: digests.columns(name, lake[name].read()) for name in lake.tables()}
    assert tables[""] == tables["daft"]


ON_RAY = """
import sys
import polars as pl
from arislab import cluster, duplicates
if __name__ == "__main__":
    rows = pl.read_parquet(sys.argv[1])
    many = cluster.connect("daft@local")
    assert list(many.map(len, ["", "a", "bb"])) == [0, 1, 2]
    star, score = duplicates.stars(rows, questions=("input",), engine="daft@local")
    pl.DataFrame({"star": star, "score": score}).write_parquet(sys.argv[2])
"""


def need_ray():
    has_ray = importlib.util.find_spec("ray") is not None
    need("ray", present=has_ray, why='Ray is not installed (pip install "arislab[ray]")')


def test_on_ray_near_duplicates_are_the_same(tmp_path):
    need_ray()
    rows = texts(3_000, 300, seed=6)
    rows.write_parquet(tmp_path / "rows")
    command = [sys.executable, "-c", ON_RAY, str(tmp_path / "rows"), str(tmp_path / "stars")]
    subprocess.run(command, check=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"})
    star, score = duplicates.stars(rows, questions=("input",))
    assert pl.read_parquet(tmp_path / "stars").equals(pl.DataFrame({"star": star, "score": score}))


NODES = """
import subprocess, sys
from ray.cluster_utils import Cluster
if __name__ == "__main__":
    one = {"num_cpus": 1, "memory": 2 * 10**9, "object_store_memory": 2 * 10**8, "node_ip_address": "127.0.0.1"}
    many = Cluster(initialize_head=True, head_node_args=one | {"include_dashboard": False})
    try:
        far = many.add_node(**one)
        many.wait_for_nodes()
        pids = [node.all_processes["raylet"][0].process.pid for node in (many.head_node, far)]
        command = [sys.executable, "-c", sys.argv[1], many.address, *map(str, pids), *sys.argv[2:]]
        subprocess.run(command, check=True, timeout=300)  # ends it, too
    finally:
        many.shutdown()
"""

ON_NODES = """
import json, os, signal, sys, threading, time
from pathlib import Path
import polars as pl
from arislab import cluster, duplicates, scoring, structured
from arislab.duplicates import spread
from arislab.errors import PrerequisiteError
from arislab.task import load

address, head, far, lost, folder = sys.argv[1:]
folder, engine = Path(folder), f"daft@{address}"
scoring._BATCHES, cluster._ROWS = 1, 500  # parts for both nodes

def node(_):
    time.sleep(0.2)
    return os.environ["RAY_RAYLET_PID"]

def lose():
    os.kill(int(far), signal.SIGKILL)

def lose_while_it_scores():
    seen = folder / "seen"
    while not (seen.exists() and far in seen.read_text().split()):
        time.sleep(0.01)
    lose()

def scores():
    return scoring.score(pl.read_parquet(folder / "rows"), load(folder / "task.py"), engine=engine,
                         max_failures=0.1, timeout_s=0.5)

def stars():
    star, score = duplicates.stars(pl.read_parquet(folder / "texts"), questions=("input",), engine=engine)
    return pl.DataFrame({"star": star, "score": score})

if __name__ == "__main__":
    assert set(cluster.connect(engine).map(node, range(16))) == {head, far}  # both are at work before one is lost
    if lost == "scoring":
        threading.Thread(target=lose_while_it_scores, daemon=True).start()
    scores().write_parquet(folder / "scores")
    if lost == "comparing":
        buckets = spread._buckets
        spread._buckets = lambda *args: (lose(), buckets(*args))[1]
        try:
            stars()
        except PrerequisiteError as error:
            (folder / "message").write_text(str(error))
        spread._buckets = buckets
    stars().write_parquet(folder / "stars")
    said = pl.read_parquet(folder / "said")
    structured.check(said, {"type": "object"}, repair=True, engine=engine).write_parquet(folder / "checked")
"""

SLOW = """
def slow(output):
    with open(SEEN, "a") as file:
        file.write(os.environ.get("RAY_RAYLET_PID", "here") + "\\n")
    time.sleep(0.004)
    return 1

SCORERS, WEIGHTS = SCORERS | {"slow": slow}, WEIGHTS | {"slow": 0.1}
"""


@pytest.mark.parametrize("lost", ["none", "scoring", "comparing"])
def test_two_nodes_give_the_same_and_the_loss_of_one_is_outlived_or_said(tmp_path, lost):
    need_ray()
    n, task = 3_000, tmp_path / "task.py"
    task.write_text(f"{TASK}SEEN = {str(tmp_path / 'seen')!r}\n{SLOW}")
    rows = pl.DataFrame({"custom_id": [f"r{i:03x}" for i in range(n)], "output": texts(n, 0, seed=1)["output"]})
    rows = rows.with_columns(candidate_id=pl.Series([f"c{i // 3}" for i in range(n)]))
    rows.write_parquet(tmp_path / "rows")
    copies = texts(n, 300, seed=6)
    copies.write_parquet(tmp_path / "texts")
    said = pl.DataFrame({"output": [json.dumps({"says": i}) if i % 3 else f"{{'says': {i}" for i in range(11_000)]})
    said.write_parquet(tmp_path / "said")
    # Ray would take the machine's other address for 127.0.0.1, where nobody listens
    local = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-c", NODES, ON_NODES, lost, str(tmp_path)]
    subprocess.run(command, check=True, timeout=400, env=os.environ | local | token | {"OMP_NUM_THREADS": "1"})
    seen = set((tmp_path / "seen").read_text().split())
    assert (len(seen), "here" in seen) == (2, False)
    expected = scoring.score(rows, load(task), max_failures=0.1, timeout_s=0.5)
    assert pl.read_parquet(tmp_path / "scores").equals(expected)
    star, score = duplicates.stars(copies, questions=("input",))
    assert pl.read_parquet(tmp_path / "stars").equals(pl.DataFrame({"star": star, "score": score}))
    checked = structured.check(said, {"type": "object"}, repair=True)
    assert pl.read_parquet(tmp_path / "checked").equals(checked)
    if lost == "comparing":
        message = (tmp_path / "message").read_text()
        assert "failed: a node of the cluster was lost, and with it rows that it held. Nothing was written" in message


def test_a_ray_where_nobody_listens_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(PrerequisiteError, match=rf"^Ray cannot be reached at '{address}': .*; run this on a node"):
        on_ray.connect(address)
    assert time.monotonic() - start < 20
    with pytest.raises(PrerequisiteError, match=r"at 'elsewhere': it has to be auto, local or HOST:PORT"):
        on_ray.connect("elsewhere")
