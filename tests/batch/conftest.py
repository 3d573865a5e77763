"""Servers that the tests of the batch client ask."""

import json
import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from toys import ScriptedBatches

from arislab.batch import connection, job, results
from arislab.batch.doctor import examination


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """What the client waits between tries and looks; servers of the tests answer at once, those of providers do not."""
    monkeypatch.setattr(connection, "_PAUSE_S", 0.01)
    monkeypatch.setattr(results, "_AGAIN_S", 0.01)
    monkeypatch.setattr(examination, "LOOK_S", 0.005)
    monkeypatch.setattr(job, "_NEAR_S", (0.02, 0.2))
    monkeypatch.setattr(job, "_FAR_S", (0.02, 0.5))


@pytest.fixture
def echo(root, monkeypatch):
    """A server that answers with the question, a little later."""
    made = []

    def start(delay=0):
        command = [
            sys.executable,
            "-m",
            "arislab",
            "serve",
            "--data",
            str(root / "srv"),
            "--engine",
            f"echo:{delay}",
            "--parent-pid",
            str(os.getpid()),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        ready = json.loads(process.stdout.readline())
        made.append(process)
        monkeypatch.setenv("ARISLAB_API_KEY", Path(ready["token_file"]).read_text().strip())
        return process, ready["url"]

    yield start
    for process in made:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture
def scripted(root):
    kind = type("Scripted", (ScriptedBatches,), {"batches": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}/v1", root / "b"
    server.shutdown()
    server.server_close()
    thread.join()
