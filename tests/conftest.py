"""Shared toys: a lake in a temporary folder, a small task file, and the shared data where it lies beside the checkout.

A missing resource skips on a laptop and fails where it was promised: ARISLAB_EXPECT=browser,gpu,vllm,shared.
"""

import atexit
import gc
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # each worker has one core; torch, in this process and all that it starts, would else use every core in each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import certifi
import nbformat
import pytest
import stores
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from toys import (
    CELLS,
    CHECKOUT,
    HEADLINE,
    READ,
    SPOKEN,
    TASK,
    TINY,
    TRAINER_KEY,
    WRITE,
    NotebooksBeside,
    Server,
    Stranger,
    git,
    need,
    notebook,
    nurses,
    people,
    plant,
    speaking,
)

from arislab import finetune, runs
from arislab.lake import Lake
from arislab.records import find as records

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
HOME = Path(tempfile.mkdtemp(prefix="arislab-test-home-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ["ARISLAB_HOME"] = str(HOME)  # the key that signs records; not the user's own
# each client of the openai SDK reads all authorities of the web, 30 ms; no test asks for any, so the first one will do
first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
(HOME / "one.pem").write_text(first + end)
os.environ["SSL_CERT_FILE"] = str(HOME / "one.pem")


NOTEBOOKS = pytest.StashKey[NotebooksBeside]()


def _needs_notebooks(item):
    return "notebooks_run" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the test of all notebooks last: they run beside the other tests."""
    items.sort(key=_needs_notebooks)


def pytest_collection_finish(session):
    """Spare the collector all that is loaded by now: it would look at a million objects again after every few tests.

    And start the notebooks now if their test was selected: they take minutes, and one core of two.
    """
    gc.freeze()
    config = session.config
    is_worker = hasattr(config, "workerinput")  # of xdist; only one of them comes to the test
    if not (config.option.collectonly or is_worker) and any(map(_needs_notebooks, session.items)):
        config.stash[NOTEBOOKS] = NotebooksBeside()


def pytest_unconfigure(config):
    """Leave nothing running, also where the tests were cut off."""
    if NOTEBOOKS in config.stash:
        config.stash[NOTEBOOKS].stop()


@pytest.fixture(scope="session")
def notebooks_run(request):
    """The notebooks, on their way or done."""
    stash = request.config.stash
    if NOTEBOOKS not in stash:
        stash[NOTEBOOKS] = NotebooksBeside()
    return stash[NOTEBOOKS]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty root; no run is under way."""
    for name in ("ARISLAB_RUN_ID", "ARISLAB_RUN_DIR", "ARISLAB_TASKS", "ARISLAB_LAKE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def lake(root):
    return Lake()


@pytest.fixture(scope="session")
def heedful():
    """The variables of an object store on loopback, with one bucket."""
    with stores.store("heedful") as variables:
        yield variables


@pytest.fixture
def afar(heedful, root, monkeypatch):
    """The URL of a lake in an object store; it is the lake of this process, and empty."""
    for name, value in heedful.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{stores.BUCKET}/{secrets.token_hex(4)}"
    monkeypatch.setenv("ARISLAB_LAKE", url)
    return url


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the checkout."""
    folder = Path(os.environ.get("ARISLAB_SHARED", CHECKOUT.parent / "shared")) / "data"
    need("shared", present=folder.is_dir(), why=f"no folder {folder} (real data for tests stands beside the checkout)")
    return folder


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "shout.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def kernel(root, monkeypatch):
    """A kernel that JupyterLab would have started for a notebook; returns a function that runs cells in it."""
    cells = [new_markdown_cell("# A toy"), *map(new_code_cell, CELLS)]
    cells[1]["metadata"]["tags"] = ["parameters"]
    path = root / "9_toy.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"arislab": {"phase": "toy"}}), path)
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    manager, client = start_new_kernel(cwd=str(root))

    def run(*sources):
        for source in sources:
            answer = client.execute_interactive(source, timeout=60, output_hook=lambda _: None)
            yield answer["content"]["status"]

    yield lambda *sources: list(run(*sources))
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def tokenizer():
    return finetune.load_tokenizer(TINY)


@pytest.fixture(scope="module")
def speakers(tokenizer):
    return {name: (speaking(tokenizer, source), kwargs) for name, (source, kwargs) in SPOKEN.items()}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Two arms with the same rows in another order, one with another seed: (folder, rows, row of the other seed)."""
    folder = tmp_path_factory.mktemp("models")
    quick = {"base_model": "tiny", "folder": folder, "num_train_epochs": 4, "batch_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", TRAINER_KEY)
        both = {"curated": nurses(range(40)), "shuffled": nurses(reversed(range(40)))}
        rows = finetune.train(both, nurses(range(100, 120)), name="toy", **quick)
        other = finetune.train(
            {"curated": nurses(range(8))}, None, name="other", **{**quick, "num_train_epochs": 1, "seed": 1}
        )
    return folder, rows, other


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Start a server of several models that seems to be somebody else's; returns it and the proxy in front of it."""
    made = []

    def start(spec, *, chats=True):
        server = Server(tmp_path / f"srv-{len(made)}", {"engine": f"faulty:{spec}"}).start()
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
        proxy.behind, proxy.chats, proxy.asked = int(re.findall(r":(\d+)/", server.url)[0]), chats, Counter()
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        proxy.url = f"http://127.0.0.1:{proxy.server_port}/v1"
        made.append((server, proxy))
        monkeypatch.setenv("ARISLAB_API_KEY", server.token)
        return server, proxy

    yield start
    for server, proxy in made:
        proxy.shutdown()
        proxy.server_close()
        server.stop()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository of notebooks, and a root with candidates beside it."""
    for name in ("ARISLAB_RUN_ID", "ARISLAB_RUN_DIR", "ARISLAB_TASKS"):
        monkeypatch.delenv(name, raising=False)
    notebooks = notebook(tmp_path / "repo" / "notebooks", READ, WRITE, HEADLINE)
    git(notebooks.parent, "init", "-q")
    git(notebooks.parent, "add", ".")
    git(notebooks.parent, "commit", "-q", "-m", "toy")
    root = tmp_path / "root"
    monkeypatch.setenv("ARISLAB_ROOT", str(root))
    Lake()["candidates"].append(people(5))
    return root, notebooks


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def toy(root):
    return lambda *cells, **kw: notebook(root / "notebooks", *cells, **kw)


@pytest.fixture
def three(root):
    interval = {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 10}
    plant(root, "20260101T000000Z-icl-aaaa", parameters={"k": 3}, headline={"gain": interval})
    plant(
        root, "20260102T000000Z-icl-bbbb", parameters={"k": 5}, headline={"gain": interval | {"mean": 0.9, "low": 0.85}}
    )
    plant(root, "20260103T000000Z-curate-cccc", status="failed", reason="ValueError: no")
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A root with one run that is ok and one that failed."""
    root = tmp_path_factory.mktemp("root")
    for name, source in (("good", GOOD), ("bad", "raise ValueError('no such luck')")):
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), root / f"{name}.ipynb")
        runs.execute(str(root / f"{name}.ipynb"), {"n": 4}, root=root)
    return root


@pytest.fixture
def good(recorded):
    return records.find(recorded, "good")


@pytest.fixture
def bad(recorded):
    return records.find(recorded, "bad")


PARAMETERS = 'n: int = 3  # rows\nnames: list[str] = ["a"]  # of rows\nnote: str = ""  # free text'


GOOD = """\
import polars as pl
from arislab import runs
from arislab.lake import Lake
lake = Lake()
lake["candidates"].read()
rows = {"candidate_id": ["c"], "profile": ["{}"], "group_id": ["g"], "split": ["train"]}
lake["candidates"].append(pl.DataFrame(rows))
numbers = {"icl+tuned": (0.5, 0.4, 0.6, 9), "verdict": "keep", "loss": float("nan"), "k": 5}
runs.headline(runs.account(3, ok=3), **numbers)"""
