"""The review panel as a page, without Jupyter: `arislab review` in a real browser, for several people at once.

Screenshots go to $ARISLAB_SCREENSHOTS, else to the test's folder.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from toys import CHECKOUT, need

from arislab import review
from arislab.lake import Lake
from arislab.review import adjudication, seats
from arislab.task import load

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TASK = load("candidate_evaluation")
HOSTILE = '<img src="x" onerror="window.pwned = 1"><script>window.pwned = 1</script>'
ADA, GRACE = f"Ada {HOSTILE}", "Grace & Söhne"
OUTPUT = {
    "strengths": ["worked 7 years as a registered nurse"], "concerns": [HOSTILE], "summary": "A seasoned nurse.",
    "score": 0.8125, "recommendation": "hire",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def promised():
    has_voila, has_playwright = find_spec("voila"), find_spec("playwright")
    need("browser", present=bool(CHROMIUM and has_voila and has_playwright), why="Chromium, Voila or playwright is missing")


def filled(root, n=6):
    """A lake of curated rows, scored, whose texts attack."""
    rows = pl.DataFrame(
        [
            {
                "id": f"r-{i:040x}", "custom_id": f"r-{i:040x}", "candidate_id": f"s1-{i:06d}", "task": TASK.name,
                "input": f"Number {i}\n{HOSTILE}", "messages": json.dumps([{"role": "user", "content": f"Number {i}"}]),
                "output": json.dumps(OUTPUT), "quality_score": 0.734375, "needs_review": True, "approved": False,
                "metadata": json.dumps({"title": HOSTILE}), "split": "train",
            }
            for i in range(n)
        ]
    )  # fmt: skip
    lake = Lake(root / "data" / "lake")
    lake["training_data_curated"].append(rows)
    people = rows.select("candidate_id", "split", group_id="candidate_id", profile=pl.lit('{"title": "Nurse"}'))
    lake["candidates"].append(people.with_columns(category=pl.lit("Care"), use_case=pl.lit("general")))
    names = ("custom_id", "candidate_id", "task")
    scored = rows.select(*names, quality="quality_score", score_grounded="quality_score")
    lake["training_data_scored"].append(scored.with_columns(scorer_version=pl.lit(TASK.version)))
    raw = rows.select(*names, "input", "messages", llm_output="output")
    lake["training_data_raw"].append(raw.with_columns(status=pl.lit("ok"), model=pl.lit("secret-7b")))
    return lake


@dataclass
class Served:
    """A running ``arislab review``."""

    process: object
    printed: str
    log: Path

    def url(self, name):
        [url] = [line.rpartition(" ")[2] for line in self.printed.splitlines() if line.startswith(name)]
        return url


def children():
    """Processes below this one, as psutil would list them."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    return [line.split(None, 2) for line in lines.splitlines()[1:]]


@contextmanager
def served(root, *words, home):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "ARISLAB_RUN"))}
    environment |= {"JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTER_CONFIG_DIR": str(home / "config")}
    environment |= {"IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "arislab", "review", "--root", str(root), *words]
    log = home / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            printed = ""
            while "Ctrl-C" not in printed and (line := process.stdout.readline()):
                printed += line
            assert "Ctrl-C" in printed, log.read_text()
            yield Served(process, printed, log)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
            process.stdout.close()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-first-run", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def opened(browser, url, strayed, **how):
    """A page in a browser of its own; what would leave this machine, or fails, is noted."""
    page = browser.new_context(viewport={"width": 1100, "height": 900}, **how).new_page()
    page.set_default_timeout(90_000)
    origin = url.split("/voila/")[0]

    def route(one):
        is_here = one.request.url.startswith((origin, "data:", "blob:"))
        one.continue_() if is_here else (strayed.append(one.request.url), one.abort())

    page.route("**/*", route)
    answer = None
    while answer is None:
        try:
            answer = page.goto(url, wait_until="commit")
        except Exception as error:
            if "ERR_CONNECTION_REFUSED" not in str(error):
                raise
            page.wait_for_timeout(300)
    return page


def screenshot(page, name, folder):
    to = Path(os.environ.get("ARISLAB_SCREENSHOTS", folder))
    to.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(to / f"{name}.png"), full_page=True)
