"""What is durable reaches an output file, whatever an engine, a row, the disk or somebody in the folder does."""

import asyncio
import errno
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import FUZZ, add_batch, line, live, output_and_errors, read, text_of

from arislab.server import runner
from arislab.server.database import TERMINAL
from arislab.server.engines import base, echo
from arislab.server.engines import echo as echoing
from arislab.server.scan import Scan
from arislab.server.spools import NO_USAGE
from arislab.server.store import Store
from arislab.system import files as whole_files


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
    done, failed = output_and_errors(store, mixed)
    assert [(r["custom_id"], text_of(r)) for r in done] == [(f"m-{i}", f"text {i}") for i in range(80) if i != 40]
    assert [(r["custom_id"], r["response"]["status_code"]) for r in failed] == [("m-40", 500)]
    assert failed[0]["response"]["body"]["error"]["code"] in ("server_error", "answer_not_stored")
    assert [len(rows) for rows in output_and_errors(store, healthy)] == [80, 0]
    for batch_id in (mixed, healthy):
        row = store.batch(batch_id)
        assert (row["status"], row["completed"] + row["failed"], row["errors"]) == ("completed", 80, None)


@pytest.mark.parametrize("odd", ["huge", "short usage", "text usage"])
def test_an_answer_whose_token_counts_are_no_counts_is_kept_and_not_counted(store, odd):
    batch_id = add_batch(store, [line(f"r-{i}", odd if i == 3 else "two words") for i in range(10)])
    asyncio.run(live(store, batch_id, engine=Odd()))
    row, (done, failed) = store.batch(batch_id), output_and_errors(store, batch_id)
    assert (len(done), failed, row["completed"]) == (10, [], 10)
    assert (row["input_tokens"], row["output_tokens"]) == (18, 18)


def test_an_engine_that_raises_in_the_middle_of_a_chunk_keeps_what_it_answered(store):
    batch_id = add_batch(store, [line(f"r-{i}", "raise" if i == 5 else f"text {i}") for i in range(16)])
    asyncio.run(live(store, batch_id, engine=Odd()))  # chunks of eight lines
    done, failed = output_and_errors(store, batch_id)
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
    row, (done, failed) = store.batch(batch_id), output_and_errors(store, batch_id)
    assert row["status"] == "failed"
    assert orjson.loads(row["errors"])[0]["code"] == "server_error"
    assert [text_of(r) for r in done] == [f"text {i}" for i in range(len(done))]
    assert len(done) >= 16
    assert failed == []


def test_a_pump_that_breaks_leaves_an_error_line_for_each_other_line(store, monkeypatch):
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(64)])
    real, calls = Scan.request_at, []

    def breaking(*args):
        calls.append(args)
        if len(calls) == 33:
            raise AssertionError("a defect of the server")
        return real(*args)

    monkeypatch.setattr(Scan, "request_at", breaking)
    asyncio.run(live(store, batch_id))
    row, (done, failed) = store.batch(batch_id), output_and_errors(store, batch_id)
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
    done, failed = output_and_errors(store, batch_id)
    assert ([text_of(r) for r in done], failed) == ([f"text {i}" for i in range(30)], [])
    assert store.batch(batch_id)["status"] == "completed"
    assert calls[5] - calls[0] > 0.02, "not without a pause"


# -- rows --------------------------------------------------------------------------------------------------------------

usages = st.tuples(*[st.integers() | st.floats() | st.none() | st.text(max_size=3)] * 4) | st.just(NO_USAGE)
results = st.tuples(st.integers(0, 10**6) | st.just(200), st.binary(max_size=40) | st.just(b"{}"), usages)


@pytest.mark.slow
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


def test_lines_that_did_not_run_in_time_expire(tmp_path: Path) -> None:
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(400)])

    async def some() -> None:
        life = runner.Runner(store, echoing.EchoEngine(delay_s=0.01))
        life.take(batch_id)
        while store.batch(batch_id)["completed"] < 10:
            await asyncio.sleep(0.01)
        await life.stop()

    asyncio.run(some())
    store.database.write(
        lambda db: db.execute("update batches set expires_at = 1")
    ).result()  # while the server was off
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert row["status"] == "expired"
    assert row["failed"] == 400 - row["completed"]
    done, expired = (read(store.path(row[name]).read_bytes()) for name in ("output_file_id", "error_file_id"))
    assert {r["error"]["code"] for r in expired} == {"batch_expired"}
    assert sorted(r["custom_id"] for r in done + expired) == sorted(f"r-{i}" for i in range(400))
    store.close()


def test_lines_of_one_prefix_are_dispatched_together(tmp_path: Path) -> None:
    shots = ["four examples", "eight examples"]
    rows = [line(f"r-{i}", f"question {i}") for i in range(20)]
    for i, row in enumerate(rows):
        row["body"]["messages"].insert(0, {"role": "system", "content": shots[i % 2]})
    store, seen = Store(tmp_path), []

    class Watched(echoing.EchoEngine):
        async def run(self, chunk: Any, emit: Any) -> None:
            seen.extend(request.body["messages"][0]["content"] for request in chunk)
            await super().run(chunk, emit)

    async def run(*, group_by_prefix: bool) -> list[str]:
        seen.clear()
        batch_id = add_batch(store, rows)
        life = runner.Runner(store, Watched(), group_by_prefix=group_by_prefix)
        life.take(batch_id)
        while store.batch(batch_id)["status"] != "completed":
            await asyncio.sleep(0.01)
        await life.stop()
        written = read(store.path(store.batch(batch_id)["output_file_id"]).read_bytes())
        assert [r["custom_id"] for r in written] == [row["custom_id"] for row in rows], "the output keeps input order"
        return list(seen)

    assert asyncio.run(run(group_by_prefix=False)) == shots * 10
    assert asyncio.run(run(group_by_prefix=True)) == [shots[0]] * 10 + [shots[1]] * 10
    store.close()


def test_a_batch_that_could_not_be_finished_is_finished_when_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, refusals = Store(tmp_path), []
    batch_id = add_batch(store, [line("a"), line("b", n=2)])
    inputs = {path.name for path in store.files_dir.iterdir()}
    sync = whole_files.sync

    def full_at_first(folder: Path) -> None:
        if folder == store.files_dir and len(refusals) < 3:
            refusals.append({path.name for path in store.files_dir.iterdir()} - inputs)
            raise OSError(errno.ENOSPC, "no space left on device")
        sync(folder)

    monkeypatch.setattr(whole_files, "sync", full_at_first)
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert row["status"] == "completed"
    assert [len(left) for left in refusals] == [1, 1, 1], "no try leaves files behind for the next"
    outputs = {row["output_file_id"], row["error_file_id"]}
    assert {path.name for path in store.files_dir.iterdir()} == inputs | outputs
    assert [
        read(store.path(file_id).read_bytes())[0]["custom_id"]
        for file_id in (row["output_file_id"], row["error_file_id"])
    ] == ["a", "b"]
    store.close()


def test_a_clock_that_jumps_expires_nothing_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}") for i in range(50)])
    now = time.time

    async def jump() -> None:
        from arislab.server.engines.echo import EchoEngine

        life = runner.Runner(store, EchoEngine(delay_s=0.01))
        life.take(batch_id)
        while store.batch(batch_id)["completed"] < 5:
            await asyncio.sleep(0.005)
        monkeypatch.setattr(time, "time", lambda: now() + 7 * 24 * 3600)
        store.sweep()
        while store.batch(batch_id)["status"] not in TERMINAL:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(time, "time", lambda: now() - 7 * 24 * 3600)
        await life.stop()

    asyncio.run(jump())
    row = store.batch(batch_id)
    assert (row["status"], row["completed"]) == ("completed", 50)
    monkeypatch.undo()
    store.sweep()
    assert store.path(row["output_file_id"]).exists()
    store.close()
