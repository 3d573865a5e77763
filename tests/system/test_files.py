"""Files are written whole or not at all, and never into a file that somebody's link points to."""

import errno
import json
import os
import secrets
import stat
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from toys import people

from arislab import finetune, runs
from arislab.batch import kept
from arislab.cli import batch as batch_commands
from arislab.errors import BatchError, PrerequisiteError
from arislab.lake import turns
from arislab.server import database
from arislab.system import files

EXAMPLES = pl.DataFrame([{"messages": json.dumps([{"role": "user", "content": "Hi"}]), "output": "Good day."}])
WRITERS = {  # what each writes at a path
    "whole": lambda path, _: write(path, b"new"),
    "results of a batch": lambda path, _: batch_commands._write(path, iter(["{}"])),
    "a run's record": lambda path, _: files.replace(path, "{}"),
    "a file of the ledger": lambda path, _: kept.keep(path, b"{}\n"),
    "training lines": lambda path, _: finetune.export_jsonl(EXAMPLES, path),
    "a table": lambda path, lake: lake.export("candidates", path),
}


def write(path, *parts):
    with files.written(path) as file:
        for part in parts:
            file.write(part)


def guesses(path):
    """Names beside a file that a writer of whole files might choose."""
    yield from (f"{path.name}{end}" for end in (".part", ".tmp", ".new", "~"))
    yield from (f".{path.name}.{os.getpid()}{end}" for end in (".part", ""))
    yield path.name


@pytest.fixture
def somebodys(tmp_path):
    """A folder that others may write into, and a file of the user's outside it."""
    folder, mine = tmp_path / "common", tmp_path / "mine.txt"
    folder.mkdir()
    mine.write_text("mine")
    return folder, mine


@pytest.mark.parametrize("what", WRITERS)
def test_no_link_in_a_common_folder_leads_what_is_written_elsewhere(somebodys, lake, what):
    folder, mine = somebodys
    lake["candidates"].append(people(2))
    path = folder / "out.jsonl"
    for name in guesses(path):
        (folder / name).symlink_to(mine)
    WRITERS[what](path, lake)
    assert mine.read_text() == "mine"
    assert not path.is_symlink()
    assert path.read_bytes()


@pytest.mark.parametrize("what", WRITERS)
def test_even_a_link_under_the_very_name_is_not_followed(somebodys, lake, monkeypatch, what):
    folder, mine = somebodys
    lake["candidates"].append(people(2))
    monkeypatch.setattr(secrets, "token_hex", lambda n: "00" * n)
    for name in (".out.jsonl.0000000000000000.part", "out.00000000.part"):
        (folder / name).symlink_to(mine)
    with pytest.raises((OSError, BatchError, PrerequisiteError), match="exists"):
        WRITERS[what](folder / "out.jsonl", lake)
    assert mine.read_text() == "mine"
    assert not (folder / "out.jsonl").exists()


def test_what_is_broken_off_leaves_what_stood_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def broken():
        yield b"half of the n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, *broken())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_folder_has_its_name_only_when_it_is_whole_and_a_broken_one_leaves_nothing(tmp_path):
    with files.made(tmp_path / "deep" / "a") as part:
        (part / "inner").mkdir()
        (part / "inner" / "x").write_text("x")
        assert not (tmp_path / "deep" / "a").exists()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"]
    with pytest.raises(TypeError), files.made(tmp_path / "deep" / "b") as part:
        (part / "x").write_text(None)
    with pytest.raises(OSError, match="not empty"), files.made(tmp_path / "deep" / "a") as part:
        (part / "y").write_text("y")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "deep",
        "deep/a",
        "deep/a/inner",
        "deep/a/inner/x",
    ]


def test_a_folder_is_on_disk_with_what_is_in_it_before_its_name_is(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path.name, (tmp_path / "a").exists())))
    with files.made(tmp_path / "a") as part:
        (part / "x").write_text("x")
    assert synced == [("x", False), (part.name, False), (tmp_path.name, True)]


def test_a_file_that_is_kept_has_its_folder_made_and_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    for content in (b"old", b"new"):
        files.keep(tmp_path / "results" / "b.jsonl", content)
    assert (tmp_path / "results" / "b.jsonl").read_bytes() == b"new"
    assert synced == [tmp_path / "results", tmp_path] * 2


def test_a_new_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["n" * 255, "名" * 85])
def test_the_longest_names_of_files_can_be_written(tmp_path, name):
    write(tmp_path / name, b"x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_locking_empties_no_file_that_a_link_points_to(somebodys):
    folder, mine = somebodys
    (folder / ".locks").mkdir()
    (folder / ".locks" / "candidates").symlink_to(mine)
    (folder / "lock").symlink_to(mine)
    (folder / "papermill_runs" / ".locks").mkdir(parents=True)
    (folder / "papermill_runs" / ".locks" / "curate").symlink_to(mine)
    with turns.turn(folder / "candidates"):
        pass
    with pytest.raises(PrerequisiteError, match="cannot write"), runs.lock(folder, "curate"):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        database.lock(folder)
    assert mine.read_text() == "mine"


def test_only_one_module_makes_up_names_of_files_that_will_be_renamed():
    """A second one would have to think of links again."""
    named = [
        path.name
        for path in sorted(Path(files.__file__).parent.parent.rglob("*.py"))
        if any(end in path.read_text() for end in ('.part"', '.tmp"', '.new"', "NamedTemporaryFile"))
    ]
    assert named == ["files.py"]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = "import os, sys, pathlib; from arislab.system import files as whole\n"
    code += "with whole.written(pathlib.Path(sys.argv[1])) as f:\n"
    code += "    f.write(b'new'); f.flush(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.read_text() == "old"


def test_a_folder_whose_name_does_not_come_to_the_disk_has_no_name(tmp_path, monkeypatch):
    def sync(path):
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync", sync)
    with pytest.raises(OSError, match="Input/output error"), files.made(tmp_path / "record") as part:
        (part / "run.json").write_text("{}")
    assert list(tmp_path.iterdir()) == [], "else who makes records would make one after the other"
