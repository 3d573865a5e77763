"""How long a brush takes in the browser: 170,000 rows, four histograms, Chromium, the widget's own module.

    python tests/bench/explore_brush.py [n_rows]

The page holds the module and what the kernel would send (a stand-in for the model of ipywidgets, no JupyterLab). The
pointer is Chromium's own (Input.dispatchMouseEvent). Each move is measured from its event (pointermove, before any
handler of it) to the end of the frame's callback that drew it, and to the first task after that frame, when the picture
is on its way to the screen. Nothing of the product is changed to be measured.
"""

import base64
import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from arislab import curate

CURATE = Path(curate.__file__).parent
HOOKS = """
const frames = window.requestAnimationFrame.bind(window), moves = [];
window.taken = moves;
addEventListener("pointermove", (event) => moves.push({ at: performance.now(), sent: event.timeStamp }), true);
window.requestAnimationFrame = (draw) => frames((time) => {
  const started = performance.now();
  draw(time);
  const ended = performance.now(), last = moves.findLast((move) => move.drawn === undefined);
  if (last) {
    Object.assign(last, { drawn: ended, work: ended - started });
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { last.after = performance.now(); };
    channel.port2.postMessage(null);
  }
});
"""
MODEL = """
import widget from "%(module)s";
const traits = %(traits)s;
const bytes = Uint8Array.from(atob(traits.block), (letter) => letter.charCodeAt(0));
traits.block = new DataView(bytes.buffer);
window.sent = [];
window.listeners = {};
window.traits = traits;
const model = {
  get: (name) => traits[name], set: (name, value) => { traits[name] = value; }, save_changes() {},
  on: (name, call) => { window.listeners[name] = call; }, off() {}, send: (message) => window.sent.push(message),
};
widget.render({ model, el: document.getElementById("here") });
"""


def rows(n, seed=1):
    """Four columns to brush: quality, a signal, length, category; one row in fifty has no quality."""
    draw = np.random.default_rng(seed)
    quality = draw.beta(5, 2, n).round(3)
    return pl.DataFrame(
        {
            "custom_id": [f"r-{i:06d}" for i in range(n)],
            "quality": pl.Series(quality).set(pl.Series(np.arange(n) % 50 == 0), None),
            "score_short": draw.beta(2, 3, n).round(2),
            "length": draw.lognormal(6.5, 0.8, n).astype(int),
            "category": draw.choice([f"category {i}" for i in range(14)], n),
        }
    )


def page_of(explorer):
    """The page: the module, the style, and what the kernel would send."""
    made = explorer.widget
    module = base64.b64encode(made._esm.encode()).decode()
    names = ("about", "state", "told")
    traits = {name: getattr(made, name) for name in names} | {"block": base64.b64encode(made.block).decode()}
    script = MODEL % {"module": f"data:text/javascript;base64,{module}", "traits": json.dumps(traits)}
    script = script.replace("</", r"<\/")
    return (
        f"<!doctype html><meta charset=utf-8><style>body {{ margin: 8px }} {made._css}</style><body><div id=here></div>"
        f"<script>{HOOKS}</script><script type=module>{script}</script>"
    )


def measured(page, n_moves):
    """Drag the cut, then brush the three histograms of numbers, one brush after the other; ms of each move."""
    shown, handle = page.locator(".arislab-explorer canvas"), page.locator(".arislab-handle")
    taken = []
    for target in (handle, *(shown.nth(which) for which in range(3))):
        box, place = target.bounding_box(), shown.nth(0).bounding_box()
        x, y = (box["x"] + 60, box["y"] + 60) if target is not handle else (box["x"] + 8, box["y"] + 60)
        wide, steps = (box["width"] if target is not handle else place["width"] + place["x"] - x) - 90, n_moves // 4
        page.mouse.move(x, y)
        page.mouse.down()
        page.evaluate("new Promise((done) => setTimeout(done, 100)).then(() => { window.taken.length = 0; })")
        for step in range(steps):  # to and fro, so that the brush grows and shrinks
            page.mouse.move(x + wide * (1 - abs(2 * step / steps - 1)), y)
            page.evaluate("new Promise((done) => setTimeout(done, 20))")
        page.mouse.up()
        taken += page.evaluate("window.taken.filter((move) => move.after !== undefined)")
    return taken


def main(n=170_000, n_moves=300):
    """Print what a brush takes."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    html = page_of(curate.Explorer(rows(n)))
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_content(html)
        page.locator(".arislab-account", has_text="kept").wait_for()
        moves = measured(page, n_moves)
        print(
            f"Chromium {browser.version}, anywidget {version('anywidget')}, playwright {version('playwright')}, "
            f"{n:,} rows, {page.locator('canvas').count()} histograms, "
            f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores"
        )
        browser.close()
    for name, took in (
        ("counting and drawing", [m["work"] for m in moves]),
        ("event to drawn", [m["drawn"] - m["at"] for m in moves]),
        ("event to the task after the frame", [m["after"] - m["at"] for m in moves]),
    ):
        p50, p95, most = np.percentile(took, [50, 95, 100])
        print(f"{name:<34} n {len(took)}  p50 {p50:5.1f}  p95 {p95:5.1f}  most {most:5.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
