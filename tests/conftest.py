"""Shared toys: a lake in a temporary folder, a small task file, and the shared data where it lies beside the checkout.

A missing resource skips on a laptop and fails where it was promised: ARISLAB_EXPECT=browser,gpu,vllm,shared.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import polars as pl
import pytest

from arislab.lake import Lake

CHECKOUT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
os.environ["ARISLAB_HOME"] = tempfile.mkdtemp(
    prefix="arislab-test-home-"
)  # the key that signs records; not the user's own
atexit.register(shutil.rmtree, os.environ["ARISLAB_HOME"], ignore_errors=True)

FUZZ = int(os.environ.get("ARISLAB_FUZZ", "100"))
"""Examples that each property test of the edges (files, names, events, messages, races) tries; 2,000 before a release."""


def need(resource: str, *, present: bool, why: str) -> None:
    """Skip, or fail where the resource was promised."""
    if present:
        return
    if resource in os.environ.get("ARISLAB_EXPECT", "").split(","):
        pytest.fail(f"{resource} was promised by ARISLAB_EXPECT, but {why}")
    pytest.skip(why)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty root; no run is under way."""
    for name in ("ARISLAB_RUN_ID", "ARISLAB_RUN_DIR", "ARISLAB_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def lake(root):
    return Lake()


@pytest.fixture(scope="session")
def shared():
    """The folder of real data beside the checkout."""
    folder = Path(os.environ.get("ARISLAB_SHARED", CHECKOUT.parent / "shared")) / "data"
    need("shared", present=folder.is_dir(), why=f"no folder {folder} (real data for tests stands beside the checkout)")
    return folder


TASK = """
SYSTEM = "Shout."
def to_messages(candidate):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": candidate["profile"]["text"]}]
def loud(output):
    return output.isupper()
def same(output, profile):
    return None if not profile["text"] else float(output.lower() == profile["text"].lower())
SCORERS = {"loud": loud, "same": same}
WEIGHTS = {"loud": 3, "same": 1}
GOLD = [{"profile": {"text": "hi"}, "output": "HI"}]
BAD = [{"profile": {"text": "hi"}, "output": "ho"}]
"""


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "shout.py"
    path.write_text(TASK)
    return path


def people(n, split="train"):
    """``n`` candidates whose profile is a number in words."""
    return pl.DataFrame(
        {
            "candidate_id": [f"c{i:04d}" for i in range(n)],
            "profile": [f'{{"text": "candidate number {i}"}}' for i in range(n)],
            "group_id": [f"g{i:04d}" for i in range(n)],
            "split": [split] * n,
        }
    )
