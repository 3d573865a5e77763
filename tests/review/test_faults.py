"""Decisions in a real JupyterLab while it fails: what a reviewer saw and pressed is what is stored.

With ARISLAB_REVIEW_FAULTS=50 it is a thousand decisions under fifty faults, a minute without an answer, and 5,000 keys.
"""

import json
import os
import random
import re
import signal
import time

import labs
import polars as pl
import pytest
from labs import CELLS, IN_KERNEL, MISSING, run_all, screenshot
from toys import need

from arislab.lake import Lake
from arislab.review import decisions

pytestmark = [pytest.mark.browser, pytest.mark.slow]
N_FAULTS = int(os.environ.get("ARISLAB_REVIEW_FAULTS", "5"))
N_ROWS = max(150, 21 * N_FAULTS + 60)
FAULTS = ("torn", "full", "server", "tab", "run again", "kernel", "reload")
"""What fails: the kernel dies with half a line on its disk; there is no room on it; the server and its kernels die; the
page is closed; the notebook is run again meanwhile; the kernel dies; the page is loaded again."""
BOOK = "notebooks/review.ipynb"
LIMIT = """import pathlib, resource
newest = max((path.stat() for path in pathlib.Path(desk.folder).glob("*.jsonl")), key=lambda stat: stat.st_mtime_ns)
resource.setrlimit(resource.RLIMIT_FSIZE, (newest.st_size + 900, resource.RLIM_INFINITY))"""
"""Room for a line and a half in the journal, and for nothing in files that are larger."""
ROOM = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    need("browser", present=not MISSING, why=f"there is no {' and no '.join(MISSING)}")
    root = labs.filled(tmp_path_factory.mktemp("lab"), N_ROWS)
    book = root / BOOK
    text = book.read_text()
    assert text.count("n_review: int = 100") == 1
    book.write_text(text.replace("n_review: int = 100", f"n_review: int = {N_ROWS}"))
    with labs.opened(root, tmp_path_factory.mktemp("jupyter")) as made:
        yield made


class Reviewer:
    """Somebody who decides about what is on the screen, and notes what they saw and pressed."""

    def __init__(self, lab, seed):
        self.lab, self.draw, self.noted = lab, random.Random(seed), []

    def open(self, name=""):
        """Run the notebook; what is unsaved under the name that the browser knows arrives."""
        run_all(self.lab, BOOK)
        if name:
            self.lab.page.get_by_label("Reviewer").fill(name)
            self.lab.page.get_by_label("Reviewer").press("Enter")
        self.panel.get_by_text("all saved").wait_for()
        self.panel.focus()

    @property
    def panel(self):
        return self.lab.page.locator(".arislab-core")

    def shown(self):
        return int(re.search(r"Number: (\d+)", self.panel.locator(".arislab-input pre").inner_text())[1])

    def press(self, decision, key):
        """Press a key until it shows: JupyterLab covers the page with a dialog when it misses a kernel."""
        page, notice = self.lab.page, self.panel.locator(".arislab-notice")
        dialog = page.locator(".jp-Dialog .jp-mod-accept")
        for _ in range(200):
            number = self.shown()
            notice.evaluate("node => { node.textContent = ''; }")
            page.wait_for_timeout(155)  # one within 0.15 s of a new output is not counted, on purpose
            page.keyboard.press(key)
            for _ in range(2):
                said = notice.inner_text()
                if "Flagged" in said or "Took back" in said or self.shown() != number:
                    self.noted.append((number, decision))
                    return
                if "Why?" in said:
                    break
                page.wait_for_timeout(150)  # a busy machine shows an output, or what a key did, later
            else:
                if dialog.is_visible():
                    dialog.click()
                self.panel.focus()
        pytest.fail(f"{key!r} decides nothing, and no dialog covers the page")

    def decide(self, n):
        """Decide n times, about one output after the other; one in ten is taken back."""
        for _ in range(n):
            self.press(*self.draw.choice([("approve", "a"), ("skip", "s"), ("flag", "f"), ("reject", "r")]))
            if self.draw.random() < 0.1:
                number, _ = self.noted[-1]
                self.press("undo", "u")
                self.noted[-1] = (number, "undo")


def stored(lab):
    """What is in the table, in its order: number of the output, decision."""
    lake = Lake(lab.root / "data" / "lake")
    lake.collect()
    events = decisions.in_order(lake["reviews"].read())
    assert events["event_id"].is_unique().all()
    return events.select(pl.col("custom_id").str.slice(2).str.to_integer(base=16), "decision", "client_seq")


def fail(reviewer, fault):
    """Let something fail while the reviewer goes on, then bring it back."""
    lab = reviewer.lab
    if fault in ("kernel", "torn"):
        os.kill(lab.kernel_pid("review.ipynb"), signal.SIGKILL)
    elif fault == "full":
        lab.page.evaluate(IN_KERNEL, LIMIT)  # other files of the kernel have no room either
    elif fault == "server":
        lab.kill()
    reviewer.decide(8)
    if fault in ("kernel", "torn", "server"):
        reviewer.panel.locator(".arislab-saved", has_text="unsaved, kept in this browser").wait_for()
    if fault == "full":
        reviewer.panel.locator(".arislab-saved", has_text="Not stored: ").wait_for()
        lab.page.evaluate(IN_KERNEL, ROOM)
        reviewer.panel.get_by_text("all saved").wait_for()
        return
    if fault == "torn":
        journals = (lab.root / "data" / "lake" / "review").rglob("*.jsonl")
        with max(journals, key=lambda path: path.stat().st_mtime_ns).open("ab") as file:
            file.write(b'{"event_id": "half a li')
    elif fault == "server":
        lab.start()
    if fault == "tab":
        lab.page.close(run_before_unload=False)
        lab.open_page()
    elif fault != "run again":
        lab.page.once("dialog", lambda dialog: dialog.accept())  # the page asks before it is left
    reviewer.open()


def test_what_was_decided_while_anything_failed_is_stored_once_and_in_its_order(lab, tmp_path):
    reviewer = Reviewer(lab, seed=5)
    reviewer.open("Grace Hopper")
    faults = [FAULTS[i % len(FAULTS)] for i in range(N_FAULTS)]
    reviewer.draw.shuffle(faults)
    for fault in faults:
        reviewer.decide(10)
        fail(reviewer, fault)
    screenshot(lab, "review-6-after-faults", tmp_path, reviewer.panel)
    found = stored(lab)
    assert found.select("custom_id", "decision").rows() == reviewer.noted
    assert found["client_seq"].to_list() == list(range(1, len(reviewer.noted) + 1))
    assert len(reviewer.noted) >= 18 * N_FAULTS
    assert not lab.strayed, lab.strayed


def test_while_the_kernel_answers_nobody_decisions_are_made_and_all_of_them_stored_afterwards(lab):
    """It is stopped: a cell that runs is not enough, JupyterLab hears a widget in a thread of its own beside it."""
    seconds, n = (60, 50) if N_FAULTS >= 50 else (6, 12)
    reviewer, before = Reviewer(lab, seed=6), stored(lab).height
    reviewer.open("Grace Hopper")
    kernel, end = lab.kernel_pid("review.ipynb"), time.monotonic() + seconds
    os.kill(kernel, signal.SIGSTOP)
    try:
        reviewer.decide(n)
        reviewer.panel.locator(".arislab-saved", has_text="unsaved, kept in this browser").wait_for()
        lab.page.wait_for_timeout(1000 * max(0, end - time.monotonic()))
    finally:
        os.kill(kernel, signal.SIGCONT)
    reviewer.panel.get_by_text("all saved").wait_for()
    assert stored(lab)[before:].select("custom_id", "decision").rows() == reviewer.noted


PLAIN = """import ipywidgets
from IPython.display import display
display(ipywidgets.HBox([ipywidgets.Button(description=name) for name in ("Approve", "Reject")]))"""


def test_of_random_keys_none_reaches_the_notebook_and_of_a_plain_panel_they_do(lab):
    """The plain one shows that this can fail."""
    reviewer, keyboard = Reviewer(lab, seed=7), lab.page.keyboard
    reviewer.open("Grace Hopper")
    keys = [*"aarsujkxmyzbbddcvg?0123456789 ;,.", "Escape", "Delete", "Shift+M", "ArrowDown", "Control+b", "Enter"]
    before = lab.page.evaluate(CELLS)
    for key in reviewer.draw.choices(keys, k=5_000 if N_FAULTS >= 50 else 1_000):
        keyboard.press(key)
    assert lab.page.evaluate(CELLS) == before
    assert reviewer.panel.count() == 1
    book = json.loads((lab.root / BOOK).read_text())
    book["cells"] = [{**book["cells"][3], "source": PLAIN, "id": f"c{i}"} for i in range(3)]
    (lab.root / "notebooks" / "plain.ipynb").write_text(json.dumps(book))
    run_all(lab, "notebooks/plain.ipynb")
    before = lab.page.evaluate(CELLS)
    lab.page.get_by_role("button", name="Approve").first.click()
    for key in reviewer.draw.choices([*"bdxyzam"], k=50):
        keyboard.press(key)
    assert lab.page.evaluate(CELLS) != before
