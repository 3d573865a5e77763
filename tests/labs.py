"""JupyterLab on loopback and Debian's Chromium before it, for tests that drive notebooks as people do.

Screenshots go to $ARISLAB_SCREENSHOTS, else to the test's folder.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import polars as pl
from toys import CHECKOUT

from arislab.lake import Lake
from arislab.task import load

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [
    what
    for what, is_there in (
        ("Chromium", CHROMIUM),
        ("JupyterLab", find_spec("jupyterlab")),
        ("playwright", find_spec("playwright")),
    )
    if not is_there
]
PATIENCE_MS = 60_000
TASK = load("candidate_evaluation")
INPUT = """Title: Registered Nurse
Experience: 7 years
Skills: Triage, Rostering, Mentoring
Role: Ward manager
Needs: Triage yes, Budgeting no
Minimum: 4 years"""
HOSTILE = '<img src="x" onerror="window.pwned = 1"><script>window.pwned = 1</script>\u202e'
OUTPUT = {
    "strengths": ["worked 7 years as a registered nurse", "led a ward of 24 beds"],
    "concerns": ["no experience with <b>electronic</b> records", HOSTILE],
    "summary": "A seasoned nurse with steady leadership; the move to a digital ward needs training.",
    "score": 0.82,
    "recommendation": "hire",
}


def filled(root, n=6):
    """Give a root the notebooks and a lake of n curated rows, whose texts attack."""
    shutil.copytree(
        CHECKOUT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
    )
    facts = {"company": "Northside Hospital", "title": "Ward manager", "category": "Healthcare", "use_case": "general"}
    rows = [
        {
            "id": f"r-{i:040x}", "custom_id": f"r-{i:040x}", "candidate_id": f"s1-{i:06d}", "task": TASK.name,
            "input": f"Number: {i}\n{INPUT}",
            "messages": json.dumps([{"role": "user", "content": f"Number: {i}\n{INPUT}"}]),
            "output": json.dumps(OUTPUT), "quality_score": 0.6 + i % 6 / 20, "needs_review": True,
            "approved": False,
            "metadata": json.dumps(facts | {"difficulty": 0.35}), "split": "train",
        }
        for i in range(n)
    ]  # fmt: skip
    curated, lake = pl.DataFrame(rows), Lake(root / "data" / "lake")
    lake["training_data_curated"].append(curated)
    profile = {
        "title": "Registered Nurse",
        "years": 7,
        "skills": ["Triage"],
        "role": "Ward manager",
        "needs": ["Triage"],
        "min_years": 4,
    }
    alternating = pl.int_range(n, eager=True) % 2 == 0
    people = curated.select("candidate_id", "split", group_id="candidate_id", profile=pl.lit(json.dumps(profile)))
    lake["candidates"].append(
        people.with_columns(
            category=pl.when(alternating).then(pl.lit("Healthcare")).otherwise(pl.lit("Management")),
            use_case=pl.lit("general"),
        )
    )
    lake["training_data_scored"].append(
        curated.select(
            "custom_id", "candidate_id", "task", quality="quality_score", score_grounded="quality_score"
        ).with_columns(scorer_version=pl.lit(TASK.version))
    )
    lake["training_data_raw"].append(
        curated.select("custom_id", "candidate_id", "task", "input", "messages", llm_output="output").with_columns(
            status=pl.lit("ok"), model=pl.when(alternating).then(pl.lit("toy")).otherwise(pl.lit(HOSTILE))
        )
    )
    return root


class Lab:
    """A JupyterLab, which can die, and the page of a browser that looks at it.

    Args:
        root: With the notebooks and the lake.
        home: A folder for what Jupyter writes beside them.
    """

    def __init__(self, root, home):
        self.root, self.home, self.token = root, home, secrets.token_hex(16)
        self.page, self.server = None, None
        self.strayed = []
        """Requests of the page that would have left this machine."""
        for folder in ("config/labconfig", "data", "runtime", "settings", "workspaces", "ipython"):
            (home / folder).mkdir(parents=True)
        quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (home / "config/labconfig/page_config.json").write_text(json.dumps(quiet))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        """Start the server, at the same address each time, and wait until it answers."""
        home = self.home
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "ARISLAB_RUN"))} | {
            "ARISLAB_ROOT": str(self.root),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_TOKEN": self.token,
        }
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.root}", "--allow-root", "--LabApp.extension_manager=readonly",
            "--LabApp.news_url=", "--LabApp.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--ServerApp.terminals_enabled=False",
        ]  # fmt: skip
        with (home / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.root
            )
        wait_until(lambda: self.server.poll() is not None or self._answers())
        assert self.server.poll() is None, (home / "server.log").read_text()

    def end(self):
        """Stop the server and its kernels."""
        self.server.send_signal(signal.SIGTERM)
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()

    def kill(self):
        """Kill the server and whatever kernels it had, at once."""
        pids = [pid for pid, words in _processes() if str(self.home).encode() in words and b"ipykernel" in words]
        for pid in [self.server.pid, *pids]:
            os.kill(pid, signal.SIGKILL)
        self.server.wait()

    def open_page(self):
        """Look at it from a new page, in the same browser."""
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        own = (self.url, "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(own) else self.strayed.append(r.url))

    def get(self, path):
        """Return what the server's API answers."""
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def kernel_pid(self, notebook):
        """Process of the notebook's kernel: the one whose connection file names the kernel."""
        [kernel] = [s["kernel"]["id"] for s in self.get("api/sessions") if s["path"].endswith(notebook)]
        return next(pid for pid, words in _processes() if kernel.encode() in words)

    def _answers(self):
        try:
            return urllib.request.urlopen(f"{self.url}/api/status?token={self.token}", timeout=5).status == 200
        except OSError:
            return False


def _processes():
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it ended between the two looks
            if folder.name.isdigit():
                yield int(folder.name), (folder / "cmdline").read_bytes()


def wait_until(true, *, seconds=60):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


@contextmanager
def opened(root, home):
    """Start a JupyterLab and a browser; stop both, and all kernels, at the end."""
    from playwright.sync_api import sync_playwright

    lab = Lab(root, home)
    lab.start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=[
                    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
                    "--disable-background-networking",
                    "--disable-component-update", "--disable-sync", "--no-first-run",
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                ],
            )  # fmt: skip
            lab.context = browser.new_context(viewport={"width": 1440, "height": 1000})
            lab.open_page()
            lab.page.goto(f"{lab.url}/lab?token={lab.token}")
            lab.page.wait_for_selector("#jp-main-dock-panel")
            yield lab
            browser.close()
    finally:
        lab.end()


def run_all(lab, notebook):
    """Open a notebook in the page, run all its cells, and return when the last one is done and none failed."""
    page = lab.page
    page.goto(f"{lab.url}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}?token={lab.token}")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("jupyterapp.commands.execute('runmenu:run-all')")  # resolves when the last cell is done
    cells = page.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON().cells")
    code = [c for c in cells if c["cell_type"] == "code"]
    errors = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert not errors, errors
    assert all(c["execution_count"] for c in code)


def screenshot(lab, name, tmp_path, target=None):
    folder = Path(os.environ.get("ARISLAB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (target or lab.page).screenshot(path=folder / f"{name}.png")


CELLS = "jupyterapp.shell.currentWidget.content.model.toJSON().cells.map((c) => [c.cell_type, c.source].flat().join())"
WIDE = """e => [...e.querySelectorAll(':not(.arislab-chips *)')].filter(x => x.getBoundingClientRect().right >
  e.getBoundingClientRect().right + 1).map(x => x.className)"""

"""Elements that stick out of the panel."""

IN_KERNEL = """code => new Promise(done => {
  let printed = "";
  const asked = jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code });
  asked.onIOPub = message => { printed += message.content.text ?? message.content.evalue ?? ""; };
  asked.done.then(() => done(printed.trim()));
})"""
"""Runs code beside the notebook; returns what it prints."""


def opened_review(lab, name):
    """Run the notebook of review and sign with a name."""
    run_all(lab, "notebooks/review.ipynb")
    panel = lab.page.locator(".arislab-core")
    panel.wait_for()
    panel.locator(".arislab-counts", has_text="left").wait_for()
    if name:
        lab.page.get_by_label("Reviewer").fill(name)
        lab.page.get_by_label("Reviewer").press("Enter")
    panel.get_by_text("all saved").wait_for()
    return panel
