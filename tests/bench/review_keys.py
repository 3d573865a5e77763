"""How long a key takes in the review panel: the widget's own module in Chromium, and a real desk and journal behind it.

    python tests/bench/review_keys.py [n_rows]

The page holds the module and a stand-in for the model of ipywidgets (no JupyterLab); what it sends is answered by the
panel's own kernel side, which writes a journal on this disk. A key is measured from its event to the end of a forced
layout of the next item, an acknowledgement from the event to the answer of the kernel side.
"""

import base64
import json
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from arislab import review
from arislab.review import journal, sessions

ORIGIN = "http://localhost/"
WORDS = "a candidate with years of work in care who leads a small ward and plans rosters well"
MODEL = """
import widget from "%(module)s";
const about = %(about)s;
const heard = [];
Object.assign(window, { sent: [], told: [], isDead: false, isDeaf: false });
window.tell = (message) => { window.told.push(message); heard.forEach((call) => call(message)); };
const model = {
  get: () => about, on: (_, call) => heard.push(call), off: (_, call) => heard.splice(heard.indexOf(call), 1),
  send: (message) => {
    const copy = JSON.parse(JSON.stringify(message));
    window.sent.push(copy);
    if (window.isDead) return;
    window.kernel(copy).then((answers) => { if (!window.isDeaf) answers.forEach(window.tell); });
  },
};
window.mount = () => widget.render({ model, el: document.getElementById("here") });
window.end = window.mount();
"""


def page_of(core):
    """The page: the module and its style."""
    module = base64.b64encode(core._esm.encode()).decode()
    script = MODEL % {"module": f"data:text/javascript;base64,{module}", "about": json.dumps(core.about)}
    script = script.replace("</", r"<\/")
    return (
        f"<!doctype html><meta charset=utf-8><style>body {{ margin: 8px }} {core._css}</style><body><div id=here></div>"
        f"<script type=module>{script}</script>"
    )


def answering(core):
    """What the kernel side says to a message, as a list of messages."""
    answers = []
    core.send = answers.append

    def kernel(said):
        answers.clear()
        core.answer(said)
        return json.loads(json.dumps(answers))

    return kernel


def opened(page, panel, *, origin=ORIGIN):
    """Open a panel in a page without Jupyter; nothing but this page is answered."""
    core = panel.widget.children[1]
    if not page.__dict__.get("kernels"):
        page.kernels = {}
        page.expose_function("kernel", lambda said: page.kernels["now"](said))
        page.route("**/*", lambda route: route.abort())
    page.kernels["now"] = answering(core)
    page.unroute(f"{origin}**")
    page.route(f"{origin}**", lambda route: route.fulfill(body=page_of(core), content_type="text/html; charset=utf-8"))
    page.goto(origin)
    page.locator(".arislab-core").wait_for()
    return page.locator(".arislab-core")


def rows(n, seed=1):
    """Answers of 200 to 3,000 characters, one in three of them JSON."""
    draw = np.random.default_rng(seed)
    words = np.array(WORDS.split())

    def text(i):
        prose = " ".join(draw.choice(words, int(draw.integers(40, 600))))
        return json.dumps({"summary": prose, "score": 0.5}) if i % 3 == 0 else prose

    return pl.DataFrame(
        {
            "custom_id": [f"r-{i:06d}" for i in range(n)],
            "input": [f"Title: Nurse\nNumber: {i}" for i in range(n)],
            "output": [text(i % 500) for i in range(n)],
            "quality_score": draw.beta(5, 2, n).round(3),
            "metadata": [json.dumps({"title": "Ward manager", "category": "care"})] * n,
            "why": ["kept"] * n,
            "inclusion_prob": [0.1] * n,
            "queue": ["q"] * n,
        }
    )


MEASURE = """async ([n, pause]) => {
  const root = document.querySelector(".arislab-core"), took = [], painted = [];
  root.focus();
  for (let i = 0; i < n; i++) {
    const start = performance.now();
    root.dispatchEvent(new KeyboardEvent("keydown", { key: "a", bubbles: true, cancelable: true }));
    root.getBoundingClientRect();
    root.querySelector(".arislab-output pre").scrollHeight;
    took.push(performance.now() - start);
    if (pause) {
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      painted.push(performance.now() - start);
    }
    await new Promise((done) => setTimeout(done, pause));
  }
  return [took, painted];
}"""
SUSTAINED = """async (n) => {
  const root = document.querySelector(".arislab-core");
  root.focus();
  for (let i = 0; i < n;) {
    if (!root.querySelector(".arislab-pair").hidden) { // else the next ones are on their way
      root.dispatchEvent(new KeyboardEvent("keydown", { key: "a", bubbles: true, cancelable: true }));
      i++;
    }
    await new Promise((done) => setTimeout(done));
  }
}"""
ACKS = """async (n) => {
  const root = document.querySelector(".arislab-core"), took = [];
  for (let i = 0; i < n; i++) {
    const before = window.told.filter((m) => m.kind === "acks").length, start = performance.now();
    root.dispatchEvent(new KeyboardEvent("keydown", { key: "a", bubbles: true, cancelable: true }));
    while (window.told.filter((m) => m.kind === "acks").length === before) {
      await new Promise((done) => setTimeout(done, 1));
    }
    took.push(performance.now() - start);
  }
  return took;
}"""


def told(name, took):
    """Print one line of times in ms."""
    p50, p95, most = np.percentile(took, [50, 95, 100])
    print(f"{name:<44} n {len(took)}  p50 {p50:5.1f}  p95 {p95:5.1f}  most {most:5.1f} ms")


def of_a_session(n, folder):
    """Print what the kernel side of a session of several reviewers takes for one of them, counts included."""
    sessions.start(folder, rows(n), sessions.Settings(seed=1))
    desk, taken, decided = sessions.Session(folder, reviewer="Ada"), [], []
    for i in range(20):
        start = time.perf_counter()
        items = desk.take("Ada", 25 if i else 50)
        taken.append(1000 * (time.perf_counter() - start))
        for k, item in enumerate(items[:25]):
            event = {"event_id": f"{i} {k}", "decision": "approve", "labels": "[]", "client_seq": 25 * i + k + 1}
            start = time.perf_counter()
            desk.decide([event | {name: item[name] for name in ("custom_id", "queue")}], "Ada")
            desk.counts("Ada")
            decided.append(1000 * (time.perf_counter() - start))
    print(f"{n:,} rows in a session")
    told("25 further items", taken)
    told("a decision stored and counted", decided)


def main(*sizes):
    """Print what a key takes."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-precise-memory-info"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        print(
            f"Chromium {browser.version}, anywidget {version('anywidget')}, playwright {version('playwright')}, "
            f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores"
        )
        for n in sizes or (100, 34_000):
            times = {"open to the first item": [], "key to the end of forced layout": []}
            times |= {"key to the second frame after it": [], "key to acknowledgement (journal on disk)": []}
            n_pages, n_keys, n_acks = (5, n - 10, 8) if n < 1000 else (1, 200, 200)  # of few rows nearly all
            for i in range(n_pages):
                desk = review.QueueDesk(rows(n), folder=Path(folder) / f"{n}-{i}")
                panel = review.Panel(desk, reviewer="Ada", dwell_s=0)
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                start = time.perf_counter()
                opened(page, panel, origin=f"{ORIGIN}{n}/{i}/")
                page.locator(".arislab-output pre:visible").wait_for()
                opening = [1000 * (time.perf_counter() - start)]
                took, painted = page.evaluate(MEASURE, [n_keys, 30])
                acknowledged = page.evaluate(ACKS, n_acks)
                for held, more in zip(times.values(), (opening, took, painted, acknowledged), strict=True):
                    held.extend(more)
                if n >= 1000:
                    start, many = time.perf_counter(), 500
                    page.evaluate(SUSTAINED, many)
                    page.wait_for_function("document.querySelector('.arislab-saved').textContent === 'all saved'")
                    print(f"{many} labels, all acknowledged: {many / (time.perf_counter() - start):.0f} a second")
                    heap = page.evaluate("performance.memory.usedJSHeapSize / 1e6")
                    print(f"heap {heap:.1f} MB; {len(journal.read(desk.folder)):,} decisions in the journal")
                page.close()
            print(f"{n:,} rows, {n_pages} pages")
            for name, held in times.items():
                told(name, held)
            of_a_session(n, Path(folder) / f"session-{n}")
        browser.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
