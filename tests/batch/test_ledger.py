"""The ledger of a folder: who may send a shard, and what stands in a ledger of an earlier version."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import questions as requests
from toys import result_line as line

from arislab import batch
from arislab.batch.ledger import UNSENT, Ledger
from arislab.errors import PrerequisiteError
from arislab.system import processes

URL = "http://127.0.0.1:9/v1"


@pytest.fixture
def book(tmp_path):
    ledger = Ledger(tmp_path)
    yield ledger
    ledger.close()


def shard(book, owner):
    """A file that another process claimed a moment ago."""
    write = lambda names: [("digest", book._path, 2, names)]  # noqa: E731
    (row,), _ = book.claim(["r-1"], server=URL, resend=(), write=write)
    book.db.execute("update shards set owner = ?, beat = ?", (owner, time.time()))
    return row


@pytest.mark.parametrize(
    ("change", "may_send"),
    [
        pytest.param({}, False, id="lives"),
        pytest.param({"start_ticks": 1}, True, id="its-pid-is-another-process-now"),
        pytest.param({"boot_id": "an earlier one"}, True, id="of-another-boot"),
        pytest.param({"boot_id": "another", "hostname": "elsewhere"}, False, id="of-another-machine"),
        pytest.param({"start_ticks": 1, "hostname": "elsewhere"}, False, id="of-another-container"),
    ],
)
def test_a_shard_is_taken_over_from_a_process_that_is_surely_gone(book, change, may_send):
    row = shard(book, json.dumps(processes.identity(os.getppid()) | change))
    assert book.hold(row) is may_send


def test_a_process_that_an_earlier_version_named_is_believed_until_its_lease_ends(book):
    row = shard(book, f"{os.getpid()}@{os.uname().nodename}")
    assert not book.hold(row)
    book.db.execute("update shards set beat = ?", (time.time() - 301,))
    assert book.hold(row)


@pytest.mark.slow
def test_two_notebooks_never_send_a_request_twice(echo, root):
    _, url = echo(0.02)
    code = (
        "import sys; sys.path[:0] = [sys.argv[1] + '/..']; from toys import questions; from arislab import batch\n"
        "from pathlib import Path; folder = Path(sys.argv[3])\n"
        "server = batch.connect(sys.argv[2], folder=folder)\n"
        "job = batch.submit(questions(200), server=server, folder=folder, max_lines=40)\n"
        "rows = job.wait(poll_s=0.05).collect()\n"
        "assert rows['status'].to_list() == ['ok'] * 200, rows\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), url, str(root / "b")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    messages = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], messages
    sent = list(batch.connect(url, folder=root / "b").client.batches.list())
    assert sum(b.request_counts.total for b in sent) == 200


def test_a_ledger_of_the_first_version_is_taken_over(scripted):
    kind, url, folder = scripted
    frame = requests(3)
    server = batch.connect(url, folder=folder)
    batch.submit(frame, server=server, folder=folder)
    db = Ledger(folder).db
    old = db.execute("select * from shards").fetchone()
    for sql in ("drop table shards", "drop table lines", "drop table about", "pragma user_version = 0"):
        db.execute(sql)
    db.execute(
        "create table shards (shard, attempt, server, path, n, state, file_id, batch_id, changed_at, "
        "primary key (shard, attempt, server))"
    )
    db.execute(
        "insert into shards values (?, 1, ?, ?, 3, 'submitted', ?, ?, null)",
        (old["shard"], url, old["path"], old["file_id"], old["batch_id"]),
    )
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    rows = batch.submit(frame, server=server, folder=folder).wait(poll_s=0.01).collect()
    assert (rows["status"].to_list(), kind.creates) == (["ok"] * 3, 1)


WORDS = ("geheim99", "p%40ss:wört/er")


def as_written_before(folder, url, word):
    """Have a ledger name its server as earlier versions did.

    With user and password, in its rows and in what lies about in its file.
    """
    book = Ledger(folder)
    named = url.replace("://", f"://anna:{word}@")
    for i in (1, 9, 30, 2):
        book.db.execute("update shards set server = ?, error = ?", (named, f"no answer from {named}/batches; " * i))
    book.close()
    return named


@pytest.mark.parametrize("word", WORDS)
def test_a_ledger_that_names_its_server_with_a_password_goes_on_and_keeps_no_password(scripted, word):
    kind, url, folder = scripted
    frame, how = requests(40), {"folder": folder, "max_lines": 1}
    batch.submit(frame, server=batch.connect(url, folder=folder), **how).ledger.close()
    named = as_written_before(folder, url, word)
    assert word.encode() in (folder / "ledger.sqlite").read_bytes()
    kind.output = b"".join(line(x) for x in frame["custom_id"])
    rows = batch.submit(frame, server=batch.connect(named, folder=folder), **how).wait(poll_s=0.01).collect()
    assert set(rows["status"]) == {"ok"}
    assert kind.creates == 40, "what was sent under the old name is not sent again"
    assert {row["server"] for row in Ledger(folder).rows()} == {url}
    for path in folder.rglob("*"):
        assert not path.is_file() or word.encode() not in path.read_bytes(), path.name
    assert "geheim" not in repr(batch.status(folder).to_dicts())


def test_what_lies_about_in_a_ledgers_file_is_taken_out_when_there_is_room_again(scripted, monkeypatch):
    _, url, folder = scripted
    how = {"folder": folder, "max_lines": 1}
    batch.submit(requests(40), server=batch.connect(url, folder=folder), **how).ledger.close()
    as_written_before(folder, url, WORDS[0])
    connect = sqlite3.connect

    class Full(sqlite3.Connection):
        def execute(self, sql, *values):
            if sql == "vacuum":
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **named, factory=Full))
        for _ in range(2):
            with pytest.raises(PrerequisiteError, match=r"cannot write the batch ledger .*disk is full"):
                Ledger(folder)
    assert [row["server"] for row in Ledger(folder).rows()] == [url] * 40
    assert WORDS[0].encode() not in (folder / "ledger.sqlite").read_bytes()


def test_an_at_sign_in_the_path_of_a_url_is_no_password(scripted):
    _, url, folder = scripted
    batch.submit(requests(3), server=batch.connect(url, folder=folder), folder=folder).ledger.close()
    book = Ledger(folder)
    book.db.execute("update shards set server = ?", (f"{url}/@team",))
    before = book.rows()
    book.close()
    assert Ledger(folder).rows() == before


@pytest.mark.parametrize("states", [("submitted", "submitted"), ("creating", "submitted"), ("submitted", "planned")])
def test_a_file_that_was_sent_under_two_spellings_of_a_url_is_two_attempts(scripted, states):
    """As happens when a password changes, or moves from the URL into the environment."""
    _, url, folder = scripted
    frame = requests(3)
    batch.submit(frame, server=batch.connect(url, folder=folder), folder=folder).ledger.close()
    book = Ledger(folder)
    (row,) = book.rows()
    for word, state in zip(WORDS, states, strict=True):
        row |= {"server": url.replace("://", f"://anna:{word}@"), "state": state, "batch_id": None}
        kept = [name for name in row if name != "id"]
        sql = f"insert into shards ({', '.join(kept)}) values ({', '.join('?' * len(kept))})"
        made = book.db.execute(sql, [row[name] for name in kept]).lastrowid
        book.db.execute("insert into lines select custom_id, ?, null from lines where shard_id = 1", (made,))
    marks = {row["id"]: book.mark(row) for row in book.rows()}
    book.close()
    book = Ledger(folder)
    rows = book.rows()
    assert [row["server"] for row in rows] == [url] * 3
    assert len({(row["shard"], row["attempt"]) for row in rows}) == 3
    unsent = [row for row in rows if row["state"] in UNSENT]
    assert [book.mark(row) for row in unsent] == [marks[row["id"]] for row in unsent], "under this name it may be there"
    assert book.look(frame["custom_id"], server=url, resend=()) == ({}, {3}, {})
