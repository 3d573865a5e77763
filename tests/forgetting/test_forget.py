"""A person is forgotten: nothing of theirs is in any file, nothing of anybody else is lost, and they stay away."""

import fcntl
import gzip
import html
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pytest
from toys import arislab, here, notebook

from arislab import curate, icl, review
from arislab.errors import LakeError, PrerequisiteError
from arislab.lake import Lake, opening, receipts, tables
from arislab.review import decisions, sessions
from arislab.tiny.candidates import compose

# put together here: a record keeps uncommitted changes, such as this file as text, and names in code stay
PLAIN, COPY, TWIN = (f"{start}-{end}" for start, end in (("s1", "000001"), ("the", "copy"), ("the", "twin")))
TRAPS = "O'Brien " + '"x" 100%_Ünï'
PREFIXED, NUMBER = f"{PLAIN}0", "007"
TASK = "candidate_evaluation"
COLUMNS = ("--as", "outputs", "--task", TASK, "--id", "who", "--input", "q", "--output", "a")


LOOKS = (
    "from arislab import runs\nfrom arislab.lake import Lake\nruns.begin()\nlake = Lake()",
    'rows = lake["training_data_raw"].read(where={"candidate_id": who})\nprint(rows.to_dicts())\nrows',
    'lake["candidates"].read(where={"candidate_id": who}).select("profile")',
    'runs.headline(leaks_taken_out=", ".join(who))',
)


def profiles():
    rows = compose(60, seed=3, duplicate_fraction=0, near_duplicate_fraction=0).to_dicts()
    names = [PLAIN, PREFIXED, TRAPS, NUMBER, COPY, TWIN, *(f"p-{i}" for i in range(60))]
    for name, row in zip(names, rows, strict=False):
        about = json.loads(row["profile"])
        bio = f'grew up in the {len(name)}th house of {name}\'s street, plays "chess" & fußball\nand likes {name} cake'
        row |= {"candidate_id": name, "group_id": f"g-{name}", "split": "train"}
        row["profile"] = json.dumps(about | {"bio": bio}, ensure_ascii=False)
    twin = next(row for row in rows if row["candidate_id"] == TWIN)
    copied = next(row for row in rows if row["candidate_id"] == COPY)
    copied |= {"profile": twin["profile"], "group_id": twin["group_id"]}
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with two runs, and all that people and programs can add to it: its lake is small, its places are all."""
    root = tmp_path_factory.mktemp("forgetting") / "root"
    lake = Lake(root / "data" / "lake", run_id="hand")
    lake["candidates"].append(profiles())
    arislab("run", "generate", "-p", "n_candidates", "60", root=root)
    arislab("run", "curate", "-p", "keep_fraction", "1", root=root)
    looking = notebook(root.parent / "nb", *LOOKS, parameters="who: list[str] = []  # names", name="look")
    arislab("run", looking / "look.ipynb", "-p", "who", json.dumps([PLAIN, TRAPS, NUMBER, "p-4"]), root=root)
    outputs = root / "data" / "told.jsonl"
    told = [{"who": TRAPS, "q": f"What about {TRAPS}, the baker of Ulm?", "a": "a baker who is worth every crumb"}]
    told += [{"who": "p-1", "q": "What about the smith of Bonn, then?", "a": "a smith who hits the iron hard"}]
    outputs.write_text("".join(json.dumps(row) + "\n" for row in told))
    arislab("import", outputs, *COLUMNS, root=root)
    curated = lake["training_data_curated"].read()
    kept = {name: curated.filter(candidate_id=name).row(0, named=True) for name in (PLAIN, NUMBER, TRAPS, "p-2", "p-3")}
    sets = [kept[PLAIN]["id"], kept["p-2"]["id"], kept[TRAPS]["id"], kept[NUMBER]["id"]]
    turns = [
        {"role": role, "content": kept[name][column]}
        for name in (PLAIN, TRAPS, NUMBER)
        for role, column in (("user", "input"), ("assistant", "output"))
    ]
    asked = [*turns, {"role": "user", "content": kept["p-3"]["input"]}]
    lake["training_data_raw"].append(
        pl.DataFrame(
            {"custom_id": ["r-" + "3" * 40], "candidate_id": ["p-3"], "task": [TASK], "sample": [0], "status": ["ok"]}
        ).with_columns(messages=pl.lit(json.dumps(asked)), llm_output=pl.lit("of p-3"))
    )
    lake["icl_examples"].append(
        pl.DataFrame(
            {"id": ["set-1"], "search_id": ["s"], "task": [TASK], "k": [4], "use_case": ["general"],
             "approve_policy": ["score"], "example_ids": [sets]}
        )
    )  # fmt: skip
    roles = {"model_path": ["m-1"] * 4, "arm": ["curated"] * 4, "id": sets, "role": ["trained"] * 4}
    lake["training_rows"].append(pl.DataFrame(roles))
    folder = lake.review / "talk"
    sessions.start(folder, review.queue(curated, tables.empty("reviews"), n=60, seed=1), sessions.Settings(seed=1))
    journal = review.Journal(folder, reviewer="Ada")
    for name, row in kept.items():
        better = f'a better text about {name}, in "quotes"'
        journal.append(decisions.event(row, "edit", reviewer="Ada", edited_output=better).to_dicts())
    lake.collect()
    journal.append(decisions.event(kept[PLAIN], "approve", reviewer="Ada").to_dicts())
    journal.close()
    for ending in ("parquet", "csv", "jsonl"):
        lake.export("training_data_curated", lake.exports / f"all.{ending}")
    lines = (lake.exports / "all.jsonl").read_bytes()
    (lake.exports / "all.jsonl.gz").write_bytes(gzip.compress(lines))
    log = lake["candidates"].folder / "_delta_log"
    opening.open_version(log.parent).create_checkpoint()
    lake["candidates"].upsert(lake["candidates"].read().with_columns(company=pl.lit("Acme")))  # an older version
    shutil.copy(log / f"{0:020}.json", log / f"{7:020}.json.damaged")  # as `arislab doctor` sets it aside
    return root


@pytest.fixture
def root(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "root"))


def theirs(root, name):
    """What must not be found: names of requests and texts, as the lake had them in all versions."""
    lake, found = Lake(root / "data" / "lake"), {name} - {NUMBER}
    for table in lake.tables():
        for path in lake[table].folder.glob("*.parquet"):
            rows = pl.read_parquet(path)
            if "candidate_id" in rows.columns:
                rows = rows.filter(candidate_id=name)
                for column in ("custom_id", "profile", "input", "llm_output", "output"):
                    found |= set(rows[column].drop_nulls()) if column in rows.columns else set()
    return found | {f'a better text about {name}, in "quotes"'}


def everything(path):
    """What a file says, decoded and without escapes."""
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        text = json.dumps(pl.read_parquet(path, glob=False).to_dicts(), default=str, ensure_ascii=False)
    elif data[:15] == b"SQLite format 3":
        with sqlite3.connect(path) as db:
            text = "\n".join(db.iterdump())
    else:
        text = gzip.decompress(data).decode() if data[:2] == b"\x1f\x8b" else data.decode(errors="replace")
    return data.decode(errors="replace") + unescaped(text)


def unescaped(text):
    layers = [text]
    for _ in range(3):
        text = html.unescape(text).replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
        text = text.replace("\\u00dc", "Ü").replace("\\u00ef", "ï").replace("\\u00df", "ß")
        layers.append(text)
    return "\n".join(layers)


def holding(root, sought):
    """Files, and what they hold of texts; a name that is the start of a longer one is another."""
    pattern = re.compile("|".join(rf"{re.escape(text)}(?![0-9])" for text in sought))
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [(path.relative_to(root).as_posix(), hit[0]) for path in paths if (hit := pattern.search(everything(path)))]


def rows_of(root):
    """Every row of every version, by table and version, as text."""
    lake = Lake(root / "data" / "lake")
    return {
        (table, version): [json.dumps(row, default=str) for row in lake[table].read(version=version).to_dicts()]
        for table in lake.tables()
        for version in lake[table].history()["version"]
    }


def said(root, *words, ok=True):
    return arislab("forget", *words, "--yes", "--by", "Grace", root=root, ok=ok)


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLAIN, TRAPS, NUMBER])
def test_nothing_of_theirs_is_left_and_nothing_of_others_is_lost(root, name):
    sought, before = theirs(root, name), rows_of(root)
    lake = Lake(root / "data" / "lake")
    places = {place.split("/")[0] for place, _ in holding(root, sought)}
    assert places == {"data", "papermill_runs"}
    out = said(root, name)
    assert "0 places hold it" in out
    assert "adapter m-1: trained" in out
    assert "example set set-1" in out
    assert holding(root, sought) == []
    after = rows_of(root)
    assert after.keys() == before.keys()
    for key, rows in before.items():
        of_others = [row for row in rows if not any(text in unescaped(row) for text in sought - {name})]
        of_others = [row for row in of_others if json.loads(row).get("candidate_id") != name]
        assert set(of_others) <= set(after[key]), key
        kept = [row for row in rows if key[0] in ("icl_examples", "training_rows")]
        assert len(kept) in (0, len(after[key])), key
    n_people = lake["candidates"].rows
    assert n_people == 59
    shown = lake["icl_examples"].read()["example_ids"][0].to_list()
    assert len(shown) == 4
    assert sum(one.startswith("forgotten-") for one in shown) == 1
    assert "of p-3" in lake["training_data_raw"].read(where={"custom_id": "r-" + "3" * 40})["llm_output"].to_list()
    assert lake["candidates"].read(where={"candidate_id": PREFIXED}).height == 1
    (receipt,) = (root / "data" / "forgotten").iterdir()
    told = json.loads(receipt.read_text())
    assert (told["status"], told["by"], told["left"]) == ("complete", "Grace", [])
    assert told["adapters"] == [{"version": "m-1", "role": "trained"}]
    assert not (root / "data" / "lake" / receipts.UNDER_WAY).exists()


@pytest.mark.slow
def test_the_root_works_afterwards_and_its_records_are_true_but_for_what_is_gone(root):
    runs = [path.parent for path in (root / "papermill_runs").glob("*/run.json")]
    changed = next(run for run in runs if "curate" in run.name)
    raw = json.loads((changed / "run.json").read_text())
    (changed / "run.json").write_text(json.dumps(raw | {"reason": "nothing happened"}))  # as somebody who cheats would
    said(root, PLAIN)
    assert "whole" in arislab("doctor", root=root)
    assert "generate" in arislab("runs", root=root)
    assert "59" in arislab("sql", "select count(*) n from candidates", root=root)
    other = Lake(root / "data" / "lake")["training_data_curated"].read(where={"candidate_id": "p-2"})["id"][0]
    assert "p-2" in arislab("lineage", other, root=root)
    verified = arislab("verify", "generate", root=root)
    assert "V0 equal" in verified
    assert "a person was forgotten" in verified
    assert "was changed after the run" in arislab("verify", "curate", "--level", "0", root=root, ok=False)
    ledger = sqlite3.connect(root / "data" / "batches" / "ledger.sqlite")
    counts = ledger.execute("select n, (select count(*) from lines where shard_id = id), bytes, path from shards")
    for n, n_lines, n_bytes, path in counts.fetchall():
        sent = root / "data" / "batches" / "requests" / Path(path).name
        assert n == n_lines
        assert (n_bytes, n) == (sent.stat().st_size, len(sent.read_text().splitlines()))
    server = sqlite3.connect(root / "data" / "batches" / "server" / "server.db")
    for name, n_bytes in server.execute("select id, bytes from files").fetchall():
        assert (root / "data" / "batches" / "server" / "files" / name).stat().st_size == n_bytes


def test_a_forgotten_example_is_withdrawn_and_its_set_is_not_shown_again(root):
    said(root, PLAIN)
    lake = Lake(root / "data" / "lake")
    chosen, rows = lake["icl_examples"].read().row(0, named=True), lake["training_data_curated"].read()
    gone = curate.withdrawn(chosen["example_ids"], rows, lake["reviews"].read().clear(), approve="score")
    assert gone == [chosen["example_ids"][0]]
    with pytest.raises(PrerequisiteError, match=r"forgotten-.* is not there any more.*arislab run icl"):
        icl.turns(rows, chosen["example_ids"])


def test_who_was_forgotten_does_not_come_back(root):
    said(root, TRAPS)
    lake = Lake(root / "data" / "lake")
    again = root / "told.jsonl"
    told = [{"who": name, "q": "Who is this?", "a": "nobody knows"} for name in (TRAPS, "new")]
    again.write_text("".join(json.dumps(row) + "\n" for row in told))
    done = here("import", again, *COLUMNS, "--root", root)
    assert done.returncode == 0
    assert "1 of 2 rows are about 1 forgotten candidates" in done.stderr
    assert {"new"} == set(lake["training_data_raw"].read(where={"llm_output": "nobody knows"})["candidate_id"])
    again.write_text(json.dumps({"who": TRAPS, "title": "baker"}) + "\n")
    assert "is not imported again" in arislab("import", again, "--as", "candidates", "--id", "who", root=root, ok=False)
    with pytest.raises(LakeError, match=r"forgotten on .* receipt"):
        lake["candidates"].append(profiles().filter(candidate_id=TRAPS))
    version = lake["candidates"].version
    assert "0 places hold it" in said(root, TRAPS)
    assert len(list((root / "data" / "forgotten").iterdir())) == 1
    assert lake["candidates"].version == version
    assert "no candidate 's1-00000'" in said(root, "s1-00000", ok=False)


@pytest.mark.slow
def test_what_two_candidates_have_stays_with_the_other(root):
    lake = Lake(root / "data" / "lake")
    before = lake["training_data_raw"].read(where={"candidate_id": [COPY, TWIN]})
    out = arislab("forget", COPY, root=root, ok=False)
    assert f"'{TWIN}' has the same profile" in out
    assert f"not forgotten (--group takes them along): {TWIN}" in out
    assert lake["candidates"].rows == 60
    said(root, COPY)
    after = lake["training_data_raw"].read(where={"candidate_id": TWIN})
    columns = [name for name in before.columns if name != "candidate_id"]
    assert after.select(columns).sort("custom_id").equals(before.select(columns).sort("custom_id"))
    assert before.height
    twin = profiles().filter(candidate_id=TWIN)["profile"][0]
    assert lake["candidates"].read(where={"candidate_id": TWIN})["profile"][0] == twin
    assert holding(root, {COPY}) == []
    said(root, TWIN)
    assert holding(root, {TWIN, *after["custom_id"], *after["llm_output"].drop_nulls(), *after["input"]}) == []


def test_nothing_is_forgotten_while_somebody_is_at_work(root):
    before = rows_of(root)
    with (root / "papermill_runs" / ".locks" / "generate").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "a run, a server or a review is at work" in said(root, PLAIN, ok=False)
    with sqlite3.connect(root / "data" / "batches" / "ledger.sqlite") as db:
        db.execute("update shards set state = 'submitted'")
    assert "are on their way in batch" in said(root, PLAIN, ok=False)
    damaged = next(Lake(root / "data" / "lake")["candidates"].folder.glob("*.parquet"))
    assert rows_of(root) == before
    assert not (root / "data" / "forgotten").exists()
    with sqlite3.connect(root / "data" / "batches" / "ledger.sqlite") as db:
        db.execute("update shards set state = 'collected'")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "arislab doctor" in said(root, PLAIN, ok=False)


def test_a_place_that_cannot_be_rewritten_is_named(root):
    (root / "data" / "exports" / "notes.bin").write_bytes(b"\xff\xfe" + PLAIN.encode() + b"\xff")
    elsewhere = root.parent / "elsewhere.jsonl"
    told = root / "data" / "told.jsonl"
    told.write_text(told.read_text() + json.dumps({"who": PLAIN}) + "\n")
    told.chmod(0o600)
    os.link(told, elsewhere)
    (root / "notebooks").mkdir()
    (root / "notebooks" / "mine.py").write_text(f"look_at = {PLAIN!r}\n")
    out = said(root, PLAIN, ok=False)
    assert "3 places hold it" in out
    assert "1 hard links from outside" in out
    assert told.stat().st_mode & 0o777 == 0o600
    assert "notes.bin" in out
    assert "it is code" in out
    assert [place for place, _ in holding(root, theirs(root, PLAIN))] == ["data/exports/notes.bin", "notebooks/mine.py"]
    receipt = json.loads(next((root / "data" / "forgotten").iterdir()).read_text())
    assert (receipt["status"], len(receipt["left"])) == ("incomplete", 3)
    (root / "data" / "exports" / "notes.bin").unlink()
    (root / "notebooks" / "mine.py").unlink()
    assert "0 places hold it" in said(root, PLAIN)


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from arislab.system import files
from arislab.__main__ import main
written, left = files.written, int(sys.argv.pop(1))

@contextmanager
def dying(path):
    global left
    left -= 1
    with written(path) as file:
        yield file
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if left == 1:  # the next one dies before it begins
        os.kill(os.getpid(), signal.SIGKILL)

files.written = dying
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4, 9, 16, 27])
def test_one_that_was_killed_ends_as_if_it_had_not_been(made, root, tmp_path, n):
    """Within the write of a file, or just after one; then the command goes on from what lies there."""
    whole = Path(shutil.copytree(made, tmp_path / "whole"))
    sought = theirs(root, PLAIN)
    said(whole, PLAIN)
    words = ["arislab", "forget", PLAIN, "--yes", "--by", "Grace", "--root", str(root)]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(n), *words[1:]]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    state = root / "data" / "lake" / receipts.UNDER_WAY
    assert state.exists() == (n > 1)
    if n > 1:
        assert "completes it first" in said(root, "p-2", ok=False)
    assert "0 places hold it" in said(root, *([PLAIN] if n == 1 else []))
    assert holding(root, sought) == []
    assert not state.exists()
    ends = [rows_of(one) for one in (root, whole)]
    for one, end in zip((root, whole), ends, strict=True):
        name = next((one / "data" / "forgotten").iterdir()).stem
        for key in end:
            end[key] = sorted(row.replace(name, "R") for row in end[key])
    assert ends[0] == ends[1]
    assert "V0 equal" in arislab("verify", "generate", "--level", "0", root=root)
