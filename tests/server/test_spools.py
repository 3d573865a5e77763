"""Results of running batches on disk: full disks, rows that cannot be stored, spools that are gone."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path

import pytest
from toys import add_batch, line, live, output_and_errors, read, text_of, until_some

from arislab.server import runner, spools
from arislab.server.engines import base, echo
from arislab.server.spools import NO_USAGE, Row
from arislab.server.store import Store
from arislab.server.writes import Writes


def test_results_wait_for_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from arislab.server import spools as module

    write_at, refusals = module.write_at, []

    def full_at_first(descriptor: int, data: bytes, offset: int) -> None:
        if len(refusals) < 2:
            refusals.append(os.pwrite(descriptor, data[:5], offset))  # a part of it came to disk
            raise OSError("no space left on device")
        write_at(descriptor, data, offset)

    monkeypatch.setattr(module, "write_at", full_at_first)
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(100)])
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], len(refusals)) == ("completed", 100, 2)
    assert len(read(store.path(row["output_file_id"]).read_bytes())) == 100
    store.close()


def test_rows_that_the_database_refuses_are_named_and_their_neighbours_are_stored(store):
    a, b = (add_batch(store, [line(f"r-{i}") for i in range(50)]) for _ in range(2))
    seqs = [store.batch(batch_id)["seq"] for batch_id in (a, b)]
    rows = [Row(i, True, b"{}\n", (2**63, 0, 0, 0) if i in (7, 8, 31) else (1, 0, 0, 0), f"r-{i}") for i in range(50)]
    writes = [store.spools.append(seq, rows if seq == seqs[0] else rows[:5]) for seq in seqs]
    assert writes[0] is writes[1], "one group"
    refused = writes[0].result()
    assert [(one.seq, one.row.line, type(one.error)) for one in refused] == [
        (seqs[0], i, OverflowError) for i in (7, 8, 31)
    ]
    assert [len(store.spools.done_lines(seq)) for seq in seqs] == [47, 5]
    assert [store.batch(batch_id)["input_tokens"] for batch_id in (a, b)] == [47, 5]


def test_rows_that_waited_for_a_full_disk_are_written_together_when_it_has_room(store, monkeypatch):
    write_at, writes = spools.write_at, []
    until = time.monotonic() + 1.0

    def full(descriptor, data, offset):
        writes.append((time.monotonic(), data.count(b"\n")))
        if time.monotonic() < until:
            raise OSError(errno.ENOSPC, "no space left on device")
        write_at(descriptor, data, offset)

    monkeypatch.setattr(spools, "write_at", full)
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.4)
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(400)])

    class Spread(echo.EchoEngine):
        async def run(self, chunk, emit):
            await asyncio.sleep(0.005 * (chunk[0].line % 200))  # answers come one by one over a second
            await super().run(chunk, emit)

    engine = Spread()
    engine.chunk_lines, engine.gate = 1, base.Gate(400)
    asyncio.run(asyncio.wait_for(live(store, batch_id, engine=engine), 20))
    refused = [n for at, n in writes if at < until]
    assert len(refused) > 8, "many groups were refused"
    assert [len(rows) for rows in output_and_errors(store, batch_id)] == [400, 0]
    first_s = min(at for at, _ in writes if at >= until) - until
    assert first_s < 0.6, "room is used within one pause"
    after = [n for at, n in writes if at >= until]
    assert max(after) > 100, "what had waited went together"
    assert max(at for at, _ in writes) - until < 3, "and not one pause a group"


def test_a_row_that_cannot_be_stored_beside_a_disk_that_fills_doubles_nothing(store, monkeypatch):
    """The group is written in part, the rest meets a full disk, and all of it comes again."""
    write_at, calls = spools.write_at, []

    def third_is_full(descriptor, data, offset):
        calls.append(data)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        write_at(descriptor, data, offset)

    monkeypatch.setattr(spools, "write_at", third_is_full)
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(8)])
    real = runner.row_of
    huge = {"usage": (2**63, 0, 0, 0)}
    monkeypatch.setattr(runner, "row_of", lambda *a: real(*a)._replace(**huge if a[1] == "r-5" else {}))
    asyncio.run(live(store, batch_id))
    done, failed = output_and_errors(store, batch_id)
    assert [r["custom_id"] for r in done] == [f"r-{i}" for i in range(8) if i != 5]
    assert [r["custom_id"] for r in failed] == ["r-5"]


def test_a_row_that_cannot_be_stored_is_replaced_once_where_rows_that_waited_go_with_it(store, monkeypatch):
    """What waited for the disk shares its second try with a new row, which the database refuses."""
    write_at, calls, both = spools.write_at, [], threading.Event()

    def first_is_full(descriptor, data, offset):
        calls.append(data)
        if len(calls) == 1:
            store.database.write(lambda _: both.wait(10))  # stands in the writer's queue before anything is tried again
            raise OSError(errno.ENOSPC, "no space left on device")
        write_at(descriptor, data, offset)

    monkeypatch.setattr(spools, "write_at", first_is_full)
    batch = store.batch(add_batch(store, [line(f"r-{i}") for i in range(2)]))

    async def written():
        writes = Writes(store.spools, batch, retry_s=0.1)
        writes.add(Row(0, True, b'{"custom_id":"r-0"}\n', NO_USAGE, "r-0"))
        settled = asyncio.create_task(writes.settle(0))
        while not (calls and store.spools._pending):  # until the second try stands in line
            await asyncio.sleep(0.005)
        writes.add(Row(1, True, b'{"custom_id":"r-1"}\n', (2**63, 0, 0, 0), "r-1"))
        both.set()
        await settled

    asyncio.run(asyncio.wait_for(written(), 20))
    assert calls[1].count(b"\n") == 2, "both in one group"
    store.finish(store.batch(batch["id"]), "completed")
    done, failed = output_and_errors(store, batch["id"])
    assert [r["custom_id"] for r in done] == ["r-0"]
    assert [(r["custom_id"], r["response"]["body"]["error"]["code"]) for r in failed] == [("r-1", "answer_not_stored")]


def test_a_spool_that_is_removed_under_a_running_server_costs_nothing(store):
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(200)])

    async def removed():
        life = runner.Runner(store, echo.EchoEngine(delay_s=0.005))
        life.take(batch_id)
        while store.batch(batch_id)["completed"] < 40:
            await asyncio.sleep(0.005)
        for path in store.spools.folder.iterdir():
            path.unlink()
        while store.batch(batch_id)["status"] != "completed":
            await asyncio.sleep(0.005)
        await life.stop()

    asyncio.run(asyncio.wait_for(removed(), 20))
    done, failed = output_and_errors(store, batch_id)
    assert ([text_of(r) for r in done], failed) == ([f"text {i}" for i in range(200)], [])


@pytest.mark.parametrize("status", ["in_progress", "finalizing"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_answers_whose_spool_is_gone_are_lost_and_neither_expired_nor_asked_again(tmp_path, monkeypatch, status, left):
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    data, asked = tmp_path / "data", []
    store = Store(data)
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(120)])
    asyncio.run(until_some(store, batch_id, 40, engine=echo.EchoEngine(delay_s=0.005)))
    if status == "finalizing":

        def refuse(*_, **__):
            raise OSError(errno.ENOSPC, "no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(store, "finish", refuse)
            asyncio.run(live(store, batch_id, until=("finalizing",)))
    (spool,) = store.spools.folder.iterdir()
    store.close()
    whole = read(spool.read_bytes())
    n_done, kept = len(whole), whole[: int(len(whole) * left)]
    spool.write_bytes(b"".join(spool.read_bytes().splitlines(keepends=True)[: len(kept)])) if kept else spool.unlink()
    store = Store(data)

    class Counting(echo.EchoEngine):
        async def run(self, chunk, emit):
            asked.extend(request.custom_id for request in chunk)
            await super().run(chunk, emit)

    asyncio.run(live(store, batch_id, engine=Counting()))
    row, (done, failed) = store.batch(batch_id), output_and_errors(store, batch_id)
    assert (row["status"], row["completed"], row["failed"]) == (
        "completed",
        120 - n_done + len(kept),
        n_done - len(kept),
    )
    assert {r["error"]["code"] for r in failed} == {"batch_lost"}
    assert "file that held it is gone" in failed[0]["error"]["message"]
    assert sorted(r["custom_id"] for r in done + failed) == sorted(f"r-{i}" for i in range(120))
    assert len(asked) == len(set(asked)) == 120 - n_done, "what was paid for is not asked again unasked"
    assert not {r["custom_id"] for r in kept} & {r["custom_id"] for r in failed}
    store.close()


def test_a_batch_that_is_late_and_lost_its_spool_says_which_is_which(tmp_path):
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(100)])
    asyncio.run(until_some(store, batch_id, 20, engine=echo.EchoEngine(delay_s=0.005)))
    store.database.write(lambda db: None).result()
    n_done = store.batch(batch_id)["completed"]
    for path in store.spools.folder.iterdir():
        path.unlink()
    store.database.write(lambda db: db.execute("update batches set expires_at = 1")).result()
    store.close()
    store = Store(tmp_path)
    asyncio.run(live(store, batch_id))
    _, failed = output_and_errors(store, batch_id)
    codes = [r["error"]["code"] for r in failed]
    assert (codes.count("batch_lost"), codes.count("batch_expired")) == (n_done, 100 - n_done)
    assert store.batch(batch_id)["status"] == "expired"
    store.close()


def test_a_spool_that_is_cut_before_a_write_that_fails_costs_what_was_cut_and_nothing_else(store, monkeypatch):
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(7)])
    seq = store.batch(batch_id)["seq"]
    rows = [Row(i, True, b'{"custom_id":"r-%d"}\n' % i, NO_USAGE, f"r-{i}") for i in range(7)]
    assert store.spools.append(seq, rows[:4]).result() == []
    (spool,) = store.spools.folder.iterdir()
    os.truncate(spool, len(rows[0].data) + 5)

    def broken(_):
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="input/output"):
            store.spools.append(seq, rows[4:]).result()
    assert spool.stat().st_size >= 4 * len(rows[0].data), "what was not committed hides the gap"
    assert store.spools.append(seq, rows[4:]).result() == []
    assert store.spools.lost_lines(seq) == [1, 2, 3]
    assert store.batch(batch_id)["completed"] == 4
    store.finish(store.batch(batch_id), "completed")
    done, failed = output_and_errors(store, batch_id)
    assert ([row["custom_id"] for row in done], failed) == (["r-0", "r-4", "r-5", "r-6"], [])


def test_a_spool_that_is_cut_while_the_output_is_made_leaves_error_lines_for_what_is_gone(store, monkeypatch):
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(30)])
    real, left = store.finish, []

    def cut(*args, **more):
        if not left:
            (spool,) = store.spools.folder.iterdir()
            data = spool.read_bytes()
            left.extend(read(data[: data.index(b"\n", len(data) // 2) + 1]))
            os.truncate(spool, data.index(b"\n", len(data) // 2) + 9)
        real(*args, **more)

    monkeypatch.setattr(store, "finish", cut)
    asyncio.run(asyncio.wait_for(live(store, batch_id), 20))
    done, failed = output_and_errors(store, batch_id)
    kept = {row["custom_id"] for row in left}
    assert {row["custom_id"] for row in done} == kept
    assert sorted(row["custom_id"] for row in failed) == sorted({f"r-{i}" for i in range(30)} - kept)
    assert {row["error"]["code"] for row in failed} == {"batch_lost"}
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], row["failed"]) == ("completed", len(kept), 30 - len(kept))
