"""A lake by URL does what one in a folder does: on a store with the protocol of S3, on loopback."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest
import stores
from races import rows
from toys import FUZZ, here, people

from arislab import forgetting
from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake, check, places, storage, turns
from arislab.system import spilled


@pytest.fixture
def put(afar):
    """What puts an object of the lake's store in the place of another, or takes it away; nobody's Delta library."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")

    def put(path, content=None):
        key = urlsplit(str(path)).path.lstrip("/")
        if content is None:
            client.delete_object(Bucket=stores.BUCKET, Key=key)
        else:
            client.put_object(Bucket=stores.BUCKET, Key=key, Body=content)
        storage._seen.clear()
        places._sizes.clear()

    return put


@pytest.mark.slow
def test_every_way_to_use_a_table_works_below_a_url(afar, tmp_path):
    lake = Lake(afar)
    table = lake["candidates"]
    assert (lake.path, lake.tables(), table.exists, table.version, table.rows) == (afar, [], False, None, 0)
    assert "empty" in repr(lake)
    table.append(rows(["a", "b"])).upsert(rows(["b", "c"], title="new")).append(rows(["a", "d"], title="late"))
    titles = dict(table.read().select("candidate_id", "title").iter_rows())
    assert titles == {"a": "", "b": "new", "c": "new", "d": "late"}
    table.replace(rows(["z"], category="other"), where={"category": "other"})
    added = table.extend(lambda known: rows([f"n{known.height}"]))
    assert added["candidate_id"].to_list() == ["n5"]
    assert (table.version, table.rows, table.history().height) == (4, 6, 5)
    assert [table.read(version=n).height for n in range(5)] == [2, 3, 4, 5, 6]
    assert table.read(where={"title": "new"}, columns=["candidate_id"]).height == 2
    assert (table.head(2, where={"split": "train"}).height, table.scan().collect().height) == (2, 6)
    assert lake.sql("select count(*) n from candidates where category = 'other'").item() == 1
    assert table.version_at("2099-01-01T00:00:00+00:00") == 4
    assert table.latest(where={"candidate_id": "z"})["category"] == "other"
    assert lake.compact()["candidates"] > 0
    assert (table.rows, table.read(version=1).height) == (6, 3)
    assert lake.export("candidates", tmp_path / "all.csv").read_text().count("\n") == 7
    assert "candidates                       6 rows  version 5" in repr(lake)
    with pytest.raises(LakeError, match=r"under s3://bucket/.* has no version 9"):
        table.read(version=9)
    assert Lake().path == afar, "which ARISLAB_LAKE names"


def test_rows_below_a_url_go_to_disk_by_what_they_take_in_memory(afar, monkeypatch):
    text = pl.format('{{"text": "{} {}"}}', "candidate_id", pl.lit("often " * 150))
    repeated = people(3_000).with_columns(profile=text)
    table = Lake(afar)["candidates"].append(repeated)
    monkeypatch.setattr(spilled, "LARGE", repeated.estimated_size() // 2)
    went, frame = [], spilled.frame
    monkeypatch.setattr(spilled, "frame", lambda rows: went.append("disk") or frame(rows))
    assert table.read(columns=["profile"]).sort("profile").equals(repeated.select("profile").sort("profile"))
    assert went == ["disk"]


def test_a_life_is_followed_below_a_url(afar):
    lake = Lake(afar)
    asked = {"custom_id": "r-1", "candidate_id": "a", "sample": 0, "status": "ok", "llm_output": "x", "task": "t"}
    lake["candidates"].append(rows(["a"]))
    lake["training_data_raw"].append(pl.DataFrame([asked]))
    assert lake.lineage("r-1").keys() == {"candidates", "training_data_raw"}


def test_a_linked_table_is_a_copy_with_all_its_versions_and_needs_the_store_no_more(afar, tmp_path, monkeypatch):
    table = Lake(afar)["candidates"]
    for n in range(4):
        table.upsert(rows(["same", f"own{n}"], title=str(n)))
    other = Lake(tmp_path / "copy" / "data" / "lake")
    table.link(other, version=2)
    before = [table.read(version=n) for n in range(3)]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    assert [other["candidates"].read(version=n).equals(frame) for n, frame in enumerate(before)] == [True] * 3
    assert (other["candidates"].version, other["candidates"].history().height) == (2, 3)
    assert "whole" in str(check.examine(other)[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["of a folder", "of another URL"])
def test_a_table_is_copied_below_a_url_with_its_versions_and_what_was_cut_off_is_no_table(kind, afar, tmp_path, put):
    table = Lake(tmp_path / "lake" if kind == "of a folder" else f"{afar}-old")["candidates"]
    for n in range(13):
        table.upsert(rows(["same", f"own{n}"], title=str(n)))
    copy = Lake(afar)["candidates"]
    table.link(copy.lake, version=11)
    assert (copy.version, copy.history().height) == (11, 12)
    assert [copy.read(version=n).equals(table.read(version=n)) for n in (0, 5, 11)] == [True] * 3
    assert copy.append(rows(["later"])).rows == table.read(version=11).height + 1
    with pytest.raises(LakeError, match="has such a table already"):
        table.link(copy.lake, version=3)
    cut, sent = Lake(f"{afar}-cut"), []
    with pytest.MonkeyPatch.context() as patch:
        write = places.Url.write

        def breaks(self, file):
            sent.append(self.name)
            if self.name == f"{3:020}.json":
                raise OSError("Generic S3 error: connection closed")
            write(self, file)

        patch.setattr(places.Url, "write", breaks)
        with pytest.raises(PrerequisiteError, match="the store does not answer"):
            table.link(cut, version=11)
    assert sent.index(f"{4:020}.json") > max(i for i, name in enumerate(sent) if name.endswith(".parquet"))
    with pytest.raises(LakeError, match="version 0 is missing"):
        cut["candidates"].read()


def test_nothing_is_copied_to_a_store_that_heeds_no_condition(afar, tmp_path, monkeypatch):
    table = Lake(tmp_path / "lake")["candidates"].append(rows(["a"]))
    with stores.store("heedless") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PrerequisiteError, match="If-None-Match"):
            table.link(Lake(afar), version=0)
        assert Lake(afar).tables() == []


@pytest.mark.slow
def test_writers_of_one_machine_wait_for_their_turn(afar):
    n = 6
    writers = [multiprocessing.get_context("spawn").Process(target=_append, args=(k, n)) for k in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    table = Lake(afar)["candidates"]
    assert (table.rows, table.version) == (2 * n, 2 * n - 1)
    assert len(list(table.folder.glob("*.parquet"))) == 2 * n, "no commit came second, which would leave a file"


def test_a_writer_of_another_machine_that_came_first_is_waited_for_unless_it_died(afar, monkeypatch):
    place = Lake(afar)["candidates"].folder
    queue = Lake(afar).place / ".turns" / "candidates"
    with turns.Queue(place) as first:
        first.wait()
        assert list(queue.iterdir()) == [], "nobody else is there: nothing is put"
        first.wait(is_crowded=True)
        with turns.Queue(place) as second:
            monkeypatch.setattr(turns, "_TURN_S", 0.5)
            began = time.monotonic()
            second.wait()
            assert time.monotonic() - began >= 0.5, "it is in line, and its patience ends"
            assert [path.name for path in queue.iterdir()] == [first._name, second._name]
            monkeypatch.setattr(turns, "_TURN_S", 60.0)
            monkeypatch.setattr(turns, "_DEAD_S", -1.0)
            second.wait()  # else for a minute
            assert [path.name for path in queue.iterdir()] == [second._name]
    assert list(queue.iterdir()) == []
    Lake(afar)["candidates"].append(rows(["a"]))
    assert Lake(afar).tables() == ["candidates"]


def _append(k, n):
    for i in range(n):
        Lake()["candidates"].append(rows([f"own{k}-{i}"]))


@pytest.mark.slow
def test_a_link_of_a_version_behind_a_checkpoint_is_whole(afar, tmp_path, put):
    table = Lake(afar)["candidates"]
    for n in range(13):
        table.append(rows([f"c{n}"]))
    commits, checkpoints = storage.log_of(table.folder)
    assert (len(commits), [*checkpoints]) == (13, [9])
    other = Lake(tmp_path / "copy" / "lake")
    table.link(other, version=11)
    assert (other["candidates"].rows, table.rows) == (12, 13)
    put(commits[3])  # and such a commit nobody needs, but for the history
    assert table.rows == 13


HARMS = {
    "a commit is gone": (lambda t: t.folder / "_delta_log" / f"{1:020}.json", None, "version 1 is missing"),
    "a commit is cut off": (lambda t: t.folder / "_delta_log" / f"{2:020}.json", b'{"add": {', "version 2 is cut off"),
    "a data file is gone": (lambda t: max(t.folder.glob("*.parquet"), key=str), None, "which is gone"),
    "a data file is cut off": (lambda t: max(t.folder.glob("*.parquet"), key=str), b"PAR1", "which has 4 of"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damage_below_a_url_is_one_message_in_every_way_to_use_the_table(harm, afar, put):
    lake = Lake(afar)
    table = lake["candidates"]
    for n in range(3):
        table.append(rows([f"c{n}"]))
    which, content, message = HARMS[harm]
    put(which(table), content)
    said = rf"candidates under s3://bucket/\S+ is damaged: .*{message}.*`arislab doctor`"
    asks = (table.read, lambda: lake.sql("select * from candidates"))
    for way in (*asks, lambda: table.append(rows(["d"])), lake.compact):
        with pytest.raises(LakeError, match=said):
            way()
    (state,) = check.examine(lake)
    assert message in str(state)
    before = sorted(map(str, table.folder.rglob("*")))
    for mend in (lambda: check.repair(lake, state), lambda: check.back(lake, "candidates", 0)):
        with pytest.raises(PrerequisiteError, match=r"files are set aside in folders only.*Nothing was changed"):
            mend()
    assert sorted(map(str, table.folder.rglob("*"))) == before


def test_the_doctor_goes_back_and_keeps_one_row_of_each_key_below_a_url(afar):
    lake = Lake(afar)
    table = lake["candidates"]
    table.append(rows(["a"])).append(rows(["b"]))
    assert [str(state) for state in check.examine(lake)] == ["candidates: whole, version 1, 2 rows"]
    assert "as version 2" in check.back(lake, "candidates", 0)
    assert table.read()["candidate_id"].to_list() == ["a"]
    table.rewrite(lambda every: pl.concat([every.collect()] * 2))
    (state,) = check.examine(lake)
    assert "DOUBLED KEYS" in str(state)
    check.repair(lake, state)
    assert table.rows == 1


def test_what_is_read_again_is_not_listed_again(afar, monkeypatch):
    table = Lake(afar)["candidates"]
    table.append(rows(["a"]))
    table.read()
    listed, listing = [], places.Url._listed

    def noted(self, *, recursive):
        listed.append(self.name)
        return listing(self, recursive=recursive)

    monkeypatch.setattr(places.Url, "_listed", noted)
    table.read()
    assert set(listed) == {"_delta_log"}, "and none of its data files"


WRITER = """
import sys
from races import rows
from arislab.lake import Lake
k, n, table = int(sys.argv[1]), int(sys.argv[2]), Lake()["candidates"]
for i in range(n):
    if k % 2:
        table.append(rows([f"own{k}-{i}", f"shared{i}"]))
    else:
        table.upsert(rows([f"own{k}-{i}", f"shared{i}"], title=str(k)))
"""


@pytest.mark.slow
def test_of_four_writers_at_once_no_row_is_lost_and_none_is_there_twice(afar, tmp_path):
    n = 8 if FUZZ <= 100 else 48
    command = [sys.executable, "-c", WRITER]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    writers = []
    for k in range(4):  # as of four machines: none sees the locks of the others
        locks = tmp_path / str(k)
        locks.mkdir()
        how = {"env": env | {"TMPDIR": str(locks)}, "stderr": subprocess.PIPE, "text": True}
        writers.append(subprocess.Popen([*command, str(k), str(n)], **how))
    told = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, told
    names = Lake()["candidates"].read()["candidate_id"]
    expected = {f"own{k}-{i}" for k in range(4) for i in range(n)} | {f"shared{i}" for i in range(n)}
    assert (names.len(), names.n_unique(), set(names)) == (len(expected), len(expected), expected)
    assert Lake()["candidates"].history().height > 4 * n // 2


def test_a_store_that_heeds_no_condition_is_refused_unless_there_is_one_writer(afar, monkeypatch):
    with stores.store("heedless") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        table = Lake(afar)["candidates"]
        for write in (lambda: table.append(rows(["a"])), lambda: table.upsert(rows(["a"]))):
            with pytest.raises(
                PrerequisiteError, match=r"nothing was written to s3://bucket/.*If-None-Match.*WRITERS=1"
            ):
                write()
        assert (Lake(afar).tables(), list(Lake(afar).place.rglob("*"))) == ([], []), "not even what tried it out"
        monkeypatch.setenv("ARISLAB_LAKE_WRITERS", "1")
        table.append(rows(["a"])).append(rows(["b"]))
        monkeypatch.delenv("ARISLAB_LAKE_WRITERS")
        assert table.rows == 2, "what is read needs no condition"
        with pytest.raises(PrerequisiteError, match="If-None-Match"):
            Lake(afar).compact()


@pytest.mark.parametrize(("counts", "is_safe"), [([1, 0, 1, 0, 1], True), ([1, 1, 2], False), ([0] * 9, False)])
def test_a_trial_in_which_nobody_succeeded_says_nothing_of_the_store(counts, is_safe, afar, monkeypatch):
    rounds = iter(counts)
    monkeypatch.setattr(places, "_n_committed", lambda *_: next(rounds))
    assert places._is_conditional.__wrapped__(afar, ()) == is_safe
    assert next(rounds, None) is None, "and no round more"


WRONG = {
    "bucket": ({}, "s3://nobucket/lab", "there is no such bucket"),
    "key": ({"AWS_ACCESS_KEY_ID": "AKIAOTHERKEYID000001"}, None, "the store refuses the credentials"),
    "endpoint": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, None, "the store does not answer"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_store_that_cannot_be_used_is_one_message_without_a_key(wrong, afar, monkeypatch):
    variables, url, message = WRONG[wrong]
    table = Lake(url or afar)["candidates"]
    if url is None:
        table.append(rows(["a"]))
    monkeypatch.setattr(places, "_RETRIES", 0)
    monkeypatch.setitem(places.FOR_POLARS, "max_retries", 0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ways = (table.read, lambda: table.append(rows(["b"])), table.lake.tables, table.history, table.lake.compact)
    for way in (*ways, lambda: table.lake.sql("select 1 from candidates"), lambda: check.examine(table.lake)):
        with pytest.raises(PrerequisiteError, match=rf"cannot use the lake s3://\S+: {message}.*AWS_…") as caught:
            way()
        told = str(caught.value)
        assert not any(secret in told for secret in (stores.SECRET, stores.KEY_ID, *variables.values())), told
        assert "\n" not in told
    done = here("sql", "select * from candidates", "--lake", url or afar)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_nobody_is_forgotten_below_a_url(afar):
    Lake(afar)["candidates"].append(rows(["a"]))
    with pytest.raises(PrerequisiteError, match=r"nobody can be forgotten in s3://.*Copy the lake to a folder"):
        forgetting.plan(Lake(), ["a"])


@pytest.mark.slow
def test_a_word_of_the_command_line_names_the_lake_for_every_verb(afar, root, monkeypatch):
    Lake(afar)["candidates"].append(rows(["a"]))
    monkeypatch.delenv("ARISLAB_LAKE")
    for words in (["--lake", afar], [f"--lake={afar}"]):
        done = here("sql", "select count(*) n from candidates", "--format", "csv", *words, "--root", root)
        assert (done.returncode, done.stdout) == (0, "n\n1\n")
        assert "candidates: whole, version 0, 1 rows" in here(*words, "doctor", "--root", root).stdout
    assert here("doctor", "--root", root).stdout.endswith("\nthe lake is empty\n"), "that of the root"
    assert here("runs", "--lake", afar, "--root", root).returncode == 0
    assert "ARISLAB_LAKE" not in os.environ
    refused = here("demo", "--seeds", "2", "--lake", afar, "--root", root)
    assert (refused.returncode, "all would write to" in refused.stderr) == (2, True)
