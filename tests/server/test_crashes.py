"""What happens to a batch when the server dies, the database is busy, or an upstream is away, at any moment."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from toys import add_batch, line, live, read, text_of

from arislab.server import runner
from arislab.server.engines import echo
from arislab.server.store import Store

N = 60
DIE = """
import asyncio, os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..']
from pathlib import Path
from toys import live
from arislab.server import runner, spools, store
from arislab.server.engines.echo import EchoEngine
from arislab.system import files
owner, name = {owner}, {name!r}
real, calls = getattr(owner, name), [0]

def kill():
    calls[0] += 1
    if calls[0] == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(*args, **more):
    if {before}:
        kill()
    found = real(*args, **more)
    kill() if not {before} else None
    return found

setattr(owner, name, dying)
asyncio.run(live(store.Store(Path(sys.argv[2])), sys.argv[3], engine=EchoEngine(delay_s=0.002)))
"""


@pytest.mark.parametrize(
    ("owner", "name", "nth", "before"),
    [
        pytest.param("runner", "scan_input", 1, True, id="validating"),
        pytest.param("EchoEngine", "run", 3, True, id="dispatch"),
        pytest.param("spools", "write_at", 2, True, id="before-the-spool-is-written"),
        pytest.param("spools", "write_at", 2, False, id="between-spool-fsync-and-commit"),
        pytest.param("store.Store", "finish", 1, True, id="finalising"),
        pytest.param("files", "sync", 2, False, id="after-one-of-two-files"),
        pytest.param("files", "sync", 3, False, id="after-rename-before-commit"),
        pytest.param("store.Path", "unlink", 1, True, id="after-commit-before-the-spool-is-removed"),
    ],
)
def test_a_kill_at_each_moment_loses_no_line_and_doubles_none(tmp_path, owner, name, nth, before):
    store = Store(tmp_path / "data")
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}", **({"n": 2} if i % 3 == 0 else {})) for i in range(N)])
    store.close()
    code = DIE.format(owner=owner, name=name, nth=nth, before=before)
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "data"), batch_id]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = Store(tmp_path / "data")
    if store.batch(batch_id)["status"] != "completed":
        asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], row["failed"]) == ("completed", N - N // 3, N // 3)
    output, error = (read(store.path(row[column]).read_bytes()) for column in ("output_file_id", "error_file_id"))
    assert [(r["custom_id"], text_of(r)) for r in output] == [(f"r-{i}", f"text {i}") for i in range(N) if i % 3]
    assert [r["custom_id"] for r in error] == [f"r-{i}" for i in range(0, N, 3)]
    known = {row["input_file_id"], row["output_file_id"], row["error_file_id"]}
    assert {path.name for path in store.files_dir.iterdir()} == known, "nothing is left over"
    store.close()
    store = Store(tmp_path / "data")
    assert (list(store.spools.folder.iterdir()), list(store.tmp_dir.iterdir())) == ([], [])
    store.close()


@pytest.mark.parametrize("wait_ms", [10_000, 20], ids=["shorter-than-its-patience", "longer"])
def test_a_busy_database_is_waited_for(tmp_path, monkeypatch, wait_ms):
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    store = Store(tmp_path)
    batch_id = add_batch(store, [line(f"r-{i}", f"text {i}") for i in range(N)])
    store.database.write(lambda db: db.execute("pragma busy_timeout").fetchone()).result()
    store.database.connection.execute(f"pragma busy_timeout = {wait_ms}")
    other = sqlite3.connect(tmp_path / "server.db", isolation_level=None)

    async def disturbed():
        life = runner.Runner(store, echo.EchoEngine(delay_s=0.002))
        life.take(batch_id)
        while store.batch(batch_id)["completed"] < 5:
            await asyncio.sleep(0.005)
        other.execute("begin immediate")
        await asyncio.sleep(0.2)
        other.execute("rollback")
        while store.batch(batch_id)["status"] != "completed":
            await asyncio.sleep(0.01)
        await life.stop()

    asyncio.run(asyncio.wait_for(disturbed(), 30))
    other.close()
    results = read(store.path(store.batch(batch_id)["output_file_id"]).read_bytes())
    assert [(r["custom_id"], text_of(r)) for r in results] == [(f"r-{i}", f"text {i}") for i in range(N)]
    store.close()
