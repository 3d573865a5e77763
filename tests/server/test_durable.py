"""What is durable reaches an output file, whatever an engine, a row, the disk or somebody in the folder does."""

import asyncio
import errno
import os
import threading
import time

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import FUZZ, add_batch, line, live, read, text_of

from arislab.server import runner, spools
from arislab.server.database import TERMINAL
from arislab.server.engines import base, echo
from arislab.server.spools import NO_USAGE, Row
from arislab.server.store import Store
from arislab.server.writes import Writes


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def files(store, batch_id):
    row = store.batch(batch_id)
    named = (row["output_file_id"], row["error_file_id"])
    return [read(store.path(name).read_bytes()) if name else [] for name in named]


class Odd(echo.EchoEngine):
    """Echoes, but for the lines whose text says otherwise."""

    async def run(self, chunk, emit):
        for request in chunk:
            text = request.body["messages"][-1]["content"]
            good = echo.echo(request)
            if text == "raise":
                raise RuntimeError("the kernel of row 7 is not positive")
            if text == "forget":
                continue
            emit(self.changed(text, good))

    def changed(self, text, good):
        if text == "huge":
            return base.Result(good.line, 200, good.body, (2**63, 0, 2**70, 0))
        if text == "break":
            return base.Result(good.line, 200, b'{"choices":[\n]}')
        if text == "no bytes":
            return base.Result(good.line, 200, None)
        if text == "short usage":
            return base.Result(good.line, 200, good.body, (1,))
        if text == "text usage":
            return base.Result(good.line, 200, good.body, ("9", "9", "9", "9"))
        return good


async def together(store, ids, engine):
    """Live through batches side by side, in one runner."""
    life = runner.Runner(store, engine)
    for batch_id in ids:
        life.take(batch_id)
    while any(store.batch(batch_id)["status"] not in TERMINAL for batch_id in ids):
        await asyncio.sleep(0.01)
    await life.stop()


@pytest.mark.parametrize("odd", ["break", "no bytes", "raise", "forget"])
def test_one_odd_answer_is_one_error_line_and_costs_no_other_line_of_any_batch(store, odd):
    mixed = add_batch(store, [line(f"m-{i}", odd if i == 40 else f"text {i}") for i in range(80)])
    healthy = add_batch(store, [line(f"h-{i}", f"text {i}") for i in range(80)])
    engine = Odd()
    engine.chunk_lines = 1
    asyncio.run(together(store, [mixed, healthy], engine))
    done, failed = files(store, mixed)
    assert [(r["custom_id"], text_of(r)) for r in done] == [(f"m-{i}", f"text {i}") for i in range(80) if i != 40]
    assert [(r["custom_id"], r["response"]["status_code"]) for r in failed] == [("m-40", 500)]
    assert failed[0]["response"]["body"]["error"]["code"] in ("server_error", "answer_not_stored")
    assert [len(rows) for rows in files(store, healthy)] == [80, 0]
    for batch_id in (mixed, healthy):
        row = store.batch(batch_id)
        assert (row["status"], row["completed"] + row["failed"], row["errors"]) == ("completed", 80, None)


@pytest.mark.parametrize("odd", ["huge", "short usage", "text usage"])
def test_an_answer_whose_token_counts_are_no_counts_is_kept_and_not_counted(store, odd):
    batch_id = add_batch(store, [line(f"r-{i}", odd if i == 3 else "two words") for i in range(10)])
    asyncio.run(live(store, batch_id, engine=Odd()))
    row, (done, failed) = store.batch(batch_id), files(store, batch_id)
    assert (len(done), failed, row["completed"]) == (10, [], 10)
    assert (row["input_tokens"], row["output_tokens"]) == (18, 18)


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


def test_an_engine_that_raises_in_the_middle_of_a_chunk_keeps_what_it_answered(store):
    batch_id = add_batch(store, [line(f"r-{i}", "raise" if i == 5 else f"text {i}") for i in range(16)])
    asyncio.run(live(store, batch_id, engine=Odd()))  # chunks of eight lines
    done, failed = files(store, batch_id)
    assert [r["custom_id"] for r in done] == [f"r-{i}" for i in range(16) if i not in (5, 6, 7)]
    assert [r["custom_id"] for r in failed] == ["r-5", "r-6", "r-7"]
    assert "RuntimeError" in failed[0]["response"]["body"]["error"]["message"]
    assert "kernel of row" not in orjson.dumps(failed).decode(), "what an engine says goes to the log"


def test_a_batch_whose_requests_vanish_while_it_runs_ends_with_what_it_has(store):
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(64)])

    class Vanishing(echo.EchoEngine):
        async def run(self, chunk, emit):
            await super().run(chunk, emit)
            if chunk[0].line == 16:
                store.path(store.batch(batch_id)["input_file_id"]).write_bytes(b"{}\n" * 64)  # somebody wrote over it

    engine = Vanishing()
    engine.gate = base.Gate(1)
    asyncio.run(live(store, batch_id, engine=engine))
    row, (done, failed) = store.batch(batch_id), files(store, batch_id)
    assert row["status"] == "failed"
    assert orjson.loads(row["errors"])[0]["code"] == "server_error"
    assert [text_of(r) for r in done] == [f"text {i}" for i in range(len(done))]
    assert len(done) >= 16
    assert failed == []


def test_a_pump_that_breaks_leaves_an_error_line_for_each_other_line(store, monkeypatch):
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(64)])
    real, calls = runner.request_at, []

    def breaking(*args):
        calls.append(args)
        if len(calls) == 33:
            raise AssertionError("a defect of the server")
        return real(*args)

    monkeypatch.setattr(runner, "request_at", breaking)
    asyncio.run(live(store, batch_id))
    row, (done, failed) = store.batch(batch_id), files(store, batch_id)
    assert (row["status"], row["completed"] + row["failed"]) == ("completed", 64)
    assert orjson.loads(row["errors"])[0]["code"] == "server_error"
    assert sorted(r["custom_id"] for r in done + failed) == sorted(f"r-{i}" for i in range(64))
    assert {r["error"]["code"] for r in failed} == {"server_error"}
    assert "AssertionError" in failed[0]["error"]["message"]
    assert "window" not in orjson.dumps(failed).decode()


def test_an_end_that_cannot_be_written_is_tried_again_and_loses_nothing(store, monkeypatch):
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(30)])
    real, calls = store.finish, []

    def failing(*args, **more):
        calls.append(time.monotonic())
        if len(calls) < 6:
            raise RuntimeError("a defect of the writer")
        real(*args, **more)

    monkeypatch.setattr(store, "finish", failing)
    asyncio.run(asyncio.wait_for(live(store, batch_id), 20))
    done, failed = files(store, batch_id)
    assert ([text_of(r) for r in done], failed) == ([f"text {i}" for i in range(30)], [])
    assert store.batch(batch_id)["status"] == "completed"
    assert calls[5] - calls[0] > 0.02, "not without a pause"


# -- the disk -----------------------------------------------------------------------------------------------------------


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
    assert [len(rows) for rows in files(store, batch_id)] == [400, 0]
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
    done, failed = files(store, batch_id)
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
    done, failed = files(store, batch["id"])
    assert [r["custom_id"] for r in done] == ["r-0"]
    assert [(r["custom_id"], r["response"]["body"]["error"]["code"]) for r in failed] == [("r-1", "answer_not_stored")]


# -- a spool that is gone
# -----------------------------------------------------------------------------------------------


async def until_some(store, batch_id, n, *, engine):
    life = runner.Runner(store, engine)
    life.take(batch_id)
    while store.batch(batch_id)["completed"] < n:
        await asyncio.sleep(0.005)
    await life.stop()


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
    done, failed = files(store, batch_id)
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
    row, (done, failed) = store.batch(batch_id), files(store, batch_id)
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
    _, failed = files(store, batch_id)
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
    done, failed = files(store, batch_id)
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
    done, failed = files(store, batch_id)
    kept = {row["custom_id"] for row in left}
    assert {row["custom_id"] for row in done} == kept
    assert sorted(row["custom_id"] for row in failed) == sorted({f"r-{i}" for i in range(30)} - kept)
    assert {row["error"]["code"] for row in failed} == {"batch_lost"}
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], row["failed"]) == ("completed", len(kept), 30 - len(kept))


# -- rows ---------------------------------------------------------------------------------------------------------------

usages = st.tuples(*[st.integers() | st.floats() | st.none() | st.text(max_size=3)] * 4) | st.just(NO_USAGE)
results = st.tuples(st.integers(0, 10**6) | st.just(200), st.binary(max_size=40) | st.just(b"{}"), usages)


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(results, max_size=12))
def test_any_results_of_an_engine_leave_each_line_one_row(tmp_path_factory, odd):
    store = Store(tmp_path_factory.mktemp("rows"))
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(len(odd) + 1)])

    class Any(echo.EchoEngine):
        async def run(self, chunk, emit):
            for request in chunk:
                if request.line < len(odd):
                    status, body, usage = odd[request.line]
                    emit(base.Result(request.line, status, body, usage))
                else:
                    emit(echo.echo(request))

    asyncio.run(asyncio.wait_for(live(store, batch_id, engine=Any()), 20))
    row = store.batch(batch_id)
    assert (row["status"], row["completed"] + row["failed"]) == ("completed", len(odd) + 1)
    ids = [store.path(name).read_bytes().count(b"\n") for name in (row["output_file_id"], row["error_file_id"]) if name]
    assert sum(ids) == len(odd) + 1
    assert all(isinstance(row[f"{name}_tokens"], int) for name in ("input", "cached", "output", "reasoning"))
    store.close()
