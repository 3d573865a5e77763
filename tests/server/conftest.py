"""Servers and a store that the tests of several files of the server share."""

from collections.abc import Iterator

import pytest
from toys import Server

from arislab.server import runner
from arislab.server.store import Store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("guarded") / "data", {"engine": "echo"}).start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("echo") / "data", {"engine": "echo"}).start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("slow") / "data", {"engine": "echo:0.01"}
    ).start()  # about 400 lines a second
    yield server
    assert server.stop() == 0


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RETRY_WRITE_S", 0.01)
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()
