"""Files and batches that the server remembers, and forgets when they expire."""

import asyncio
import errno
import io
import os
from pathlib import Path

import pytest
from toys import add_batch, line, live, read

from arislab.server.store import Store


def test_finishing_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    batch_id = add_batch(store, [line("a"), line("b", n=2)])

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "finish", full)
        asyncio.run(live(store, batch_id, until=("finalizing",)))
    store.close()
    store = Store(tmp_path)
    assert store.batch(batch_id)["status"] == "finalizing"
    asyncio.run(live(store, batch_id))
    row = store.batch(batch_id)
    assert (row["status"], row["completed"], row["failed"]) == ("completed", 1, 1)
    assert [r["custom_id"] for r in read(store.path(row["output_file_id"]).read_bytes())] == ["a"]
    assert [r["custom_id"] for r in read(store.path(row["error_file_id"]).read_bytes())] == ["b"]
    store.finish(row, "cancelled")
    assert store.batch(batch_id) == row, "a terminal state is immutable"
    late = store.batch(add_batch(store, [line("a")]))
    assert store.advance(late["id"], "cancelling", from_=("validating",))
    store.finish(late, "completed")
    assert store.batch(late["id"])["status"] == "cancelled", "who cancels while the files are made is heard"
    store.close()


def test_files_are_swept_when_they_expire_but_not_under_a_running_batch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    used = store.batch(add_batch(store, [line("a")]))["input_file_id"]
    unused = store.add_file(io.BytesIO(b"x"), filename="x", purpose="batch", keep_s=3600)["id"]
    kept = store.add_file(io.BytesIO(b"x"), filename="x", purpose="batch", keep_s=7200)["id"]
    store.database.write(
        lambda db: db.execute("update files set expires_at = 1 where id in (?, ?)", (used, unused))
    ).result()
    assert store.sweep() == 1
    assert {path.name for path in store.files_dir.iterdir()} == {used, kept}
    store.close()


def test_an_upload_to_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.add_file(io.BytesIO(b"x" * 1000), filename="x", purpose="batch", keep_s=3600)
    assert (
        list(store.tmp_dir.iterdir()),
        list(store.files_dir.iterdir()),
        store.database.query("select * from files"),
    ) == (
        [],
        [],
        [],
    )
    store.close()


def test_an_output_that_nobody_downloaded_outlives_its_expiry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = {}
    for name, pin in (("kept", 1), ("limited", 0)):
        batch_id = add_batch(store, [line("a")])
        store.database.write(lambda db, pin=pin: db.execute("update batches set pin_outputs = ?", (pin,))).result()
        asyncio.run(live(store, batch_id))
        ids[name] = store.batch(batch_id)["output_file_id"]
    store.database.write(lambda db: db.execute("update files set expires_at = 1")).result()
    store.sweep()
    assert {path.name for path in store.files_dir.iterdir()} == {ids["kept"]}
    store.collected(ids["kept"])
    assert store.sweep() == 0, "a day is left, should the download have gone wrong"
    store.database.write(lambda db: db.execute("update files set expires_at = 1")).result()
    assert store.sweep() == 1
    store.close()
