"""The ledger of a folder: who may send a shard, and what stands in a ledger of an earlier version."""

import json
import os
import time

import pytest

from arislab.batch.ledger import Ledger
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
