"""A table too large for memory is imported, asked for and curated from disk, and comes out equal bit for bit."""

import json
import random
import threading
from http.server import ThreadingHTTPServer

import polars as pl
import pytest
from toys import ScriptedBatches, arislab, people, play, result_line

from arislab.batch import job
from arislab.curate.selection import near_duplicates
from arislab.inputs import parquet
from arislab.lake import Lake, digests
from arislab.system import spilled

TASK = """
SYSTEM = ""


def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["input"]}]


def category(candidate):
    return candidate["profile"]["input"].split()[1]


def long(output):
    return min(1, len(output) / 400)


def agrees(output, others):
    return None if not others else sum(o[:24] == output[:24] for o in others) / len(others)


def level(output, level=None):
    return None if level is None else int(level) / 5


SCHEMA = {"type": "object", "required": ["says"]}
SCORERS = {"long": long, "agrees": agrees, "level": level}
WEIGHTS = {"long": 0.5, "agrees": 0.3, "level": 0.2}
GOLD = [{"output": "x" * 400, "others": ["x" * 400], "level": "5"}]
"""
N = 2_600


def outputs():
    """Answers of two models in JSON, some broken; a cluster of 400 near-copies; questions that several share."""
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(3, 8))) for _ in range(900)]
    copied = chance.choices(words, k=60)
    for i in range(N):
        kind = ("Why", "How", "Where")[i % 3]
        said = chance.choices(words, k=chance.randint(20, 70))
        question = f"About {kind} number-{i // 2}: {' '.join(chance.choices(words, k=12))}"
        if i % 7 == 0:
            said = [*copied[: i % 50], chance.choice(words), *copied[i % 50 + 1 :]]
            question = f"About {kind} the {i % 11} of the copied"
        text = json.dumps({"says": " ".join(said)})
        yield {
            "q": question,
            "a": "" if i % 97 == 0 else text.replace('"', "'") if i % 13 == 0 else text,
            "m": f"m{i % 2}",
            "level": str(i % 6),
        }


def write(file):
    rows = list(outputs())
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".csv":
        pl.DataFrame(rows).write_csv(file)
    else:
        pl.DataFrame(rows).write_parquet(file)


def imported(root, file, task):
    columns = ["--input", "q", "--output", "a", "--model", "m", "--keep", "level"]
    arislab("import", file, "--as", "outputs", "--task", task, *columns, root=root)


def contents(root):
    lake = Lake(root / "data" / "lake")
    return {name: digests.columns(name, lake[name].read()) for name in lake.tables()}


class Answering(ScriptedBatches):
    """Answers requests in ten ways, half of them not at all; once mended, all of them in full."""

    sent, is_mended = b"", False
    contents: dict[str, bytes] = {}  # noqa: RUF012

    def do_POST(self):  # noqa: N802 (a name of http.server)
        kind, data = type(self), self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/files"):
            kind.sent = data
            file = {"id": "file-in", "object": "file", "bytes": 0, "created_at": 0, "filename": "x"}
            self.reply(file | {"purpose": "batch", "status": "processed"})
            return
        if not self.path.endswith("/batches"):
            self.reply({"error": {"message": "no such route"}}, code=404)
            return
        lines = [json.loads(line) for line in kind.sent.split(b"\n") if line.startswith(b'{"body"')]
        name = f"batch-{len(kind.batches):03}"
        files = {f"{name}-{end}": [written for one in lines for written in kind.of(one, end)] for end in ("out", "err")}
        kind.contents |= {file: b"".join(written) for file, written in files.items()}
        made = {"id": name, "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "file-in"}
        made |= {"completion_window": "24h", "created_at": 0, "status": "completed"}
        ends = {"output_file_id": f"{name}-out", "error_file_id": f"{name}-err"}
        kind.batches.append(made | ends | {"metadata": json.loads(data)["metadata"]})
        self.reply(kind.batches[-1])

    def do_GET(self):  # noqa: N802 (likewise)
        if self.path.endswith("/content"):
            self.reply(type(self).contents[self.path.split("/")[-2]], kind="application/octet-stream")
        else:
            super().do_GET()

    @classmethod
    def of(cls, line, end):
        """What stands of a request in the output or the error file."""
        name, asked = line["custom_id"], line["body"]["messages"][-1]["content"]
        way = 0 if cls.is_mended else int(name[2:6], 16) % 10
        if end == "err":
            expired = {"custom_id": name, "response": None, "error": {"code": "batch_expired", "message": "late"}}
            return [json.dumps(expired).encode() + b"\n"] if way == 5 else []
        return {
            0: [result_line(name, f"Größe: {asked}")],
            1: [result_line(name, asked[:20], reason="length")],
            2: [result_line(name, "no", refusal="I will not")],
            3: [result_line(name, "  ")],
            4: [result_line(name, asked), result_line(name, "another"), b'{"torn": \n'],
            6: [result_line(name, "", status=400)],
            7: [result_line(name, "", status=500)],
            8: [result_line(name, "", status=422)],
        }.get(way, [])


@pytest.fixture
def answering(monkeypatch):
    """A server of its own each time it is asked for one: its class, and its URL."""
    monkeypatch.setattr(job, "_FAR_S", (0.01, 0.05))
    made = []

    def start():
        kind = type("Answering", (Answering,), {"batches": [], "contents": {}})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        made.append((server, thread))
        return kind, f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server, thread in made:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "told.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Goes through both ways of holding rows: name of the way, and its root."""

    def each():
        for where, large in (("memory", spilled.LARGE), ("disk", 1)):
            monkeypatch.setattr(spilled, "LARGE", large)
            monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / where))
            yield where, tmp_path / where

    return each


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_import_from_disk_is_that_in_memory(kind, task, tmp_path, places):
    file = tmp_path / f"outputs.{kind}"
    write(file)
    tables = {}
    for where, root in places():
        imported(root, file, task)
        tables[where] = contents(root)
    assert tables["disk"] == tables["memory"]
    assert tables["disk"].keys() == {"candidates", "training_data_raw"}


@pytest.mark.slow
def test_a_curation_from_disk_is_that_in_memory(task, tmp_path, places):
    file = tmp_path / "outputs.parquet"
    write(file)
    tables = {}
    for where, root in places():
        imported(root, file, task)
        names = play("2_curate", root, task=str(task), repair=True, max_share=0.5, seed=3)
        assert names["n_repaired"] > 50
        assert names["marked"]["duplicate_of"].count() > 200
        tables[where] = contents(root)
    assert tables["disk"] == tables["memory"]
    assert {"training_data_scored", "training_data_curated"} <= tables["disk"].keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:batch .* without a single answer", "ignore:.* of earlier runs are not sent again")
def test_answers_of_every_status_from_disk_are_those_in_memory(task, tmp_path, places, answering):
    shown = tmp_path / "shown.jsonl"
    shown.write_text(json.dumps({"input": "Why?", "output": "So."}) + "\n")
    texts = [f"About {i // 2}: {'words and ' * (i // 2 % 40)}" for i in range(N)]  # of two one is the same request
    asked = people(N).with_columns(profile=pl.Series([json.dumps({"input": text}) for text in texts]))
    tables, statuses, accounts = {}, {}, {}
    for where, root in places():
        kind, url = answering()
        Lake()["candidates"].append(asked)
        how = {"task": str(task), "base_url": url, "n_candidates": N, "n_dry_run": 9, "samples": 2}
        names = play("1_generate", root, examples=str(shown), **how)
        statuses[where] = dict(names["raw"]["status"].value_counts().iter_rows())
        first = [contents(root), Lake()["training_data_raw"].read()["custom_id"].to_list()]
        kind.is_mended = True  # then rows are replaced, and at last those that were cut are asked for with more room
        play("1_generate", root, examples=str(shown), resend=["error"], **how)
        second = contents(root)
        names = play("1_generate", root, examples=str(shown), max_tokens=300, **how)
        tables[where] = [*first, second, contents(root)]
        accounts[where] = names["states"]
    assert tables["disk"] == tables["memory"]
    assert accounts["disk"] == accounts["memory"]
    assert statuses["disk"] == statuses["memory"]
    assert statuses["disk"].keys() == {"ok", "truncated", "refused", "empty", "error", "unavailable", "expired"}
    assert accounts["disk"]["same_request"] == N


def test_ten_thousand_near_copies_are_found_from_disk_as_in_memory(monkeypatch):
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefgh", k=5)) for _ in range(900)]
    copied = chance.choices(words, k=60)
    texts = [" ".join([*copied[: i % 60], chance.choice(words), *copied[i % 60 + 1 :]]) for i in range(10_000)]
    texts += [" ".join(chance.choices(words, k=60)) for _ in range(3_000)]
    chance.shuffle(texts)
    rows = (
        pl.DataFrame({"output": texts})
        .with_row_index("quality")
        .select("output", pl.col("quality").cast(pl.Float64), custom_id=pl.col("quality").cast(pl.String))
    )
    in_memory = near_duplicates(rows, on=["output"])
    monkeypatch.setattr(spilled, "LARGE", 1)
    assert near_duplicates(spilled.frame(rows), on=["output"]).equals(in_memory)
    assert (in_memory["duplicate_of"].count(), in_memory["duplicate_of"].drop_nulls().n_unique()) == (9_999, 1)


def test_a_file_for_which_no_disk_has_room_is_refused_whole(task, tmp_path, monkeypatch):
    file, root = tmp_path / "outputs.jsonl", tmp_path / "root"
    write(file)
    monkeypatch.setattr(spilled, "LARGE", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    columns = ["--input", "q", "--output", "a", "--model", "m"]
    said = arislab("import", file, "--as", "outputs", "--task", task, *columns, root=root, ok=False)
    assert "let TMPDIR name a folder" in said
    assert "Traceback" not in said
    assert not Lake(root / "data" / "lake").tables()
    monkeypatch.delenv("TMPDIR")
    imported(root, file, task)
    assert Lake(root / "data" / "lake")["training_data_raw"].rows == N


@pytest.mark.parametrize(("text", "goes"), [("one text, many times. " * 50, ["disk", "disk"]), ("", [])])
def test_rows_go_to_disk_by_what_they_take_in_memory_not_in_their_files(lake, tmp_path, monkeypatch, text, goes):
    rows = people(3_000).with_columns(profile=pl.format('{{"text": "{} {}"}}', "candidate_id", pl.lit(text)))
    table = lake["candidates"].append(rows)
    rows.write_parquet(tmp_path / "rows.parquet")
    n_bytes = [path.stat().st_size for path in (*table.folder.glob("*.parquet"), tmp_path / "rows.parquet")]
    limit = rows.estimated_size() // 2 if text else rows.estimated_size() * 2
    assert max(n_bytes) * 5 < limit < min(n_bytes) * 1_000, "the files' sizes alone do not say it"
    monkeypatch.setattr(spilled, "LARGE", limit)
    went, frame = [], spilled.frame
    monkeypatch.setattr(spilled, "frame", lambda rows: went.append("disk") or frame(rows))
    assert table.read().height == 3_000
    assert len(parquet.read(tmp_path / "rows.parquet", lenient=False, wanted=None).rows) == 3_000
    assert went == goes
