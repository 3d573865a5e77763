"""Notebooks in a real browser: JupyterLab on loopback, driven through Debian's Chromium."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import labs
import pytest
from labs import CELLS, IN_KERNEL, MISSING, OUTPUT, TASK, WIDE, opened_review, run_all, screenshot, wait_until
from toys import HEADLINE, need, notebook

from arislab import curate, review, runs
from arislab.lake import Lake
from arislab.records import find as records
from arislab.runs import trust, verify

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import explore_brush


@pytest.fixture(autouse=True, scope="module")
def promised():
    need("browser", present=not MISSING, why=f"there is no {' and no '.join(MISSING)}")


@pytest.fixture(scope="module")
def open_lab(tmp_path_factory):
    """One JupyterLab and one page for all tests of this file, on a lake of six curated rows."""
    with labs.opened(labs.filled(tmp_path_factory.mktemp("lab")), tmp_path_factory.mktemp("jupyter")) as lab:
        yield lab


@pytest.mark.slow
@pytest.mark.browser
def test_decisions_made_by_clicks_and_keys_are_in_the_lake_after_the_kernel_is_killed(open_lab, tmp_path):
    lab, page = open_lab, open_lab.page
    lake = Lake(lab.root / "data" / "lake")
    panel = opened_review(lab, "")
    panel.scroll_into_view_if_needed()

    def click(name, *, then):
        page.wait_for_timeout(200)  # one within 0.15 s of a new output is not counted, on purpose
        panel.get_by_role("button", name=name, exact=True).click()
        panel.get_by_text(then).wait_for()

    screenshot(lab, "review-1-opened", tmp_path)
    click("Approve", then="Enter your name first")
    page.get_by_label("Reviewer").fill("Ada Lovelace")
    panel.get_by_role("radio", name="4").first.click(delay=300)  # as a finger does it: the name is sent on the way down
    page.wait_for_timeout(300)
    click("Approve", then="1 decided")
    before = page.evaluate(CELLS)
    draw = random.Random(5)
    for key in draw.choices([*"bbddxxmyzov0 ;,.", "Delete", "Shift+M", "ArrowDown", "Control+b"], k=150):
        page.keyboard.press(key)
    page.wait_for_timeout(200)
    assert page.evaluate(CELLS) == before, "a key reached the notebook"
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.keyboard.press("1")
    panel.get_by_text("2 decided").wait_for()
    page.wait_for_timeout(200)
    page.keyboard.press("e")
    text = panel.locator("textarea")
    text.fill(text.input_value().replace('"hire"', '"interview"'))
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    screenshot(lab, "review-2-edit", tmp_path, panel)
    page.keyboard.press("Control+Enter")
    panel.get_by_text("3 decided").wait_for()
    panel.get_by_text("all saved").wait_for()
    assert panel.evaluate(WIDE) == [], "something sticks out of the panel"
    assert panel.locator("img, script, pre b b").count() == 0
    assert page.evaluate("window.pwned") is None
    screenshot(lab, "review-3-decided", tmp_path)
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_selector('body[data-jp-theme-light="false"]', state="attached")
    page.wait_for_timeout(500)
    screenshot(lab, "review-4-dark", tmp_path, panel)
    page.set_viewport_size({"width": 640, "height": 1000})
    page.wait_for_timeout(500)
    assert panel.evaluate(WIDE) == [], "something sticks out of the panel"
    screenshot(lab, "review-5-narrow", tmp_path, panel)
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
    page.wait_for_selector('body[data-jp-theme-light="true"]', state="attached")
    page.set_viewport_size({"width": 1440, "height": 1000})
    page.locator(".jp-MarkdownOutput h2", has_text="Decide").click()
    page.keyboard.press("b")
    assert len(page.evaluate(CELLS)) == len(before) + 1, "where the notebook hears a key, it changes"
    page.keyboard.press("z")
    os.kill(lab.kernel_pid("review.ipynb"), signal.SIGKILL)

    lake.collect()
    stored = lake["reviews"].read().sort("seq")
    assert stored["decision"].to_list() == ["approve", "reject", "edit"]
    assert set(stored["reviewer"]) == {"Ada Lovelace"}
    assert stored["blind"].all()
    assert stored["inclusion_prob"].is_between(0, 1).all()
    assert json.loads(stored["ratings"][0]) == {"difficulty": 4}
    assert stored["labels"].to_list() == ["[]", json.dumps(TASK.review["labels"][:1]), "[]"]
    assert json.loads(stored["edited_output"][2]) == OUTPUT | {"recommendation": "interview"}
    curated = review.fold(lake["training_data_curated"].read(), stored)
    assert curated["approved"].sum() == 2
    assert not lab.strayed, lab.strayed


SHOWN = """
import sys
from IPython.display import HTML, Image, JSON, display
from tqdm.auto import tqdm
from arislab import runs
print("one", 2, "\\x1b[31mred\\x1b[0m")
print("over\\rwritten, ab\\bc", file=sys.stderr)
display(HTML("<b>bold</b>"), JSON({"mean": 1.0, "small": -0.0, "large": [1e22, 2**70], "lines": ["a", "b"]}))
display(*tqdm(["text"]), metadata={"kept": 1.0})
"""
"""What records show: streams, HTML, numbers that a browser writes in another way, progress bars."""


@pytest.mark.slow
@pytest.mark.browser
def test_a_record_that_was_opened_and_saved_untouched_is_still_verified(open_lab, tmp_path):
    lab, page = open_lab, open_lab.page
    notebooks = notebook(tmp_path / "nb", SHOWN, HEADLINE)
    book = json.loads((notebooks / "2_curate.ipynb").read_text())
    book["metadata"]["kernelspec"] = {"display_name": "Of another machine", "language": "python", "name": "python3"}
    (notebooks / "2_curate.ipynb").write_text(json.dumps(book))
    record = runs.execute("curate", {"n": 2}, root=lab.root, notebooks=notebooks)
    assert record.status == "ok", record
    path, recorded = record.folder / "notebook.ipynb", records.find(lab.root, record.run_id)
    before = path.read_bytes()
    page.goto(f"{lab.url}/lab/workspaces/record/tree/papermill_runs/{record.run_id}/notebook.ipynb?token={lab.token}")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.ready")
    page.wait_for_function(
        "jupyterapp.shell.currentWidget.context.model.dirty"
    )  # by the kernel's name; autosave goes by it
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    wait_until(lambda: path.read_bytes() != before)
    assert verify.check_files(recorded).findings == []
    assert trust.foreign(recorded) is None
    assert not lab.strayed, lab.strayed


@pytest.mark.slow
@pytest.mark.browser
def test_a_cut_is_decided_by_brushing_dragging_and_looking_at_the_rows_behind_a_bar(open_lab, tmp_path):
    lab, page = open_lab, open_lab.page
    run_all(lab, "notebooks/explore.ipynb")
    panel, errors = page.locator(".arislab-explorer"), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    panel.get_by_text("kept 2 of 6 scored rows (33.3 %); cut at 0.8;").wait_for()  # 0.2 of 6 is 1.2: never too few
    panel.scroll_into_view_if_needed()
    quality, handle = panel.locator("canvas").first, panel.get_by_role("slider")
    box = quality.bounding_box()

    def x(value):
        return box["x"] + 42 + (box["width"] - 52) * value

    def drag(start, end):
        page.mouse.move(start, box["y"] + 80)
        page.mouse.down()
        page.mouse.move(end, box["y"] + 80, steps=8)
        page.mouse.up()

    drag(x(0.8), x(0.705))
    panel.get_by_text("kept 3 of 6 scored rows (50.0 %)").wait_for()
    panel.get_by_text("-p keep_rule above -p keep_threshold 0.70").wait_for()
    handle.focus()
    page.keyboard.press("ArrowLeft")
    panel.get_by_text("kept 4 of 6 scored rows (66.7 %)").wait_for()
    drag(x(0.33), x(0.75))
    panel.locator(".arislab-selection", has_text="quality >= 0.32 and quality < 0.76").wait_for()
    panel.get_by_text("kept 2 of 4 scored rows (50.0 %)").wait_for()
    said = page.evaluate(IN_KERNEL, "print(explorer.cut.n_kept, explorer.cut.n, explorer.held['quality'].to_list())")
    assert said == "2 4 [0.6, 0.65, 0.7, 0.75]"

    names = panel.locator("figure", has_text="model").locator("canvas")
    names.scroll_into_view_if_needed()
    names.click(position={"x": 160, "y": 20})
    panel.get_by_text("rows 1 to 2 of 2, best first").wait_for()
    rows = panel.locator("article")
    assert rows.locator("pre", has_text="steady leadership").count() == 2
    assert rows.locator("pre", has_text="Triage yes, Budgeting no").count() == 2, "the question stands beside it"
    assert rows.locator("header", has_text="U+202E").count() == 2
    assert rows.locator("pre", has_text="window.pwned = 1").count() == 2
    assert panel.locator("img, script, b b, pre b").count() == 0
    assert page.evaluate("window.pwned") is None
    screenshot(lab, "explore", tmp_path, panel)

    panel.get_by_role("button", name="review these").click()
    text = panel.get_by_role("status").get_by_text("selection: str = ").inner_text()
    selection = page.evaluate(IN_KERNEL, "print(explorer.selection)")
    assert text.endswith(f"selection: str = {selection!r}")
    assert selection.startswith('quality >= 0.32 and quality < 0.76 and model = "')
    names.press("d")
    names.press("d")  # which deletes a cell where JupyterLab hears it
    assert panel.count() == 1
    names.press("Escape")
    panel.get_by_text("kept 2 of 4 scored rows (50.0 %)").wait_for()
    page.set_viewport_size({"width": 700, "height": 1000})
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_selector('body[data-jp-theme-light="false"]', state="attached")
    page.wait_for_timeout(500)
    wide = panel.evaluate(
        "e => [...e.querySelectorAll('*')].filter(x => x.getBoundingClientRect().right > "
        "e.getBoundingClientRect().right + 1).length"
    )
    assert wide == 0, "something sticks out of the panel"
    canvases = "e => [...e.querySelectorAll('canvas')].map(c => Math.abs(c.width / devicePixelRatio - c.clientWidth))"
    for _ in range(40):  # they are drawn anew once the panel has its width, on a busy machine late
        if max(panel.evaluate(canvases)) < 1:
            break
        page.wait_for_timeout(250)
    assert max(panel.evaluate(canvases)) < 1, "a picture is drawn for another width than it has"
    screenshot(lab, "explore-dark-narrow", tmp_path, panel)
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
    page.wait_for_selector('body[data-jp-theme-light="true"]', state="attached")
    page.set_viewport_size({"width": 1440, "height": 1000})
    assert errors == []
    assert not lab.strayed, lab.strayed


@pytest.mark.slow
@pytest.mark.browser
def test_what_the_browser_counts_while_it_brushes_is_what_the_kernel_counts(open_lab):
    """The module alone in a page, with 4,000 rows: brushes, both kinds of cut, ties, rows without a score."""
    explorer = curate.Explorer(explore_brush.rows(4000, seed=7), seed=7)
    page = open_lab.page.context.browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_content(explore_brush.page_of(explorer))
    draw, boxes, account = random.Random(7), page.locator("canvas"), page.locator(".arislab-account")
    account.get_by_text("kept 784 of 3,920 scored rows (20.0 %)").wait_for()
    for step in range(24):
        if step % 3 == 0:
            field, value = draw.choice(
                [("keep the best", draw.randint(1, 1000) / 10), ("or all from", draw.randint(0, 1000) / 1000)]
            )
            page.get_by_label(field).fill(str(value))
            page.get_by_label(field).press("Enter")
        else:
            box = boxes.nth(step % 4).bounding_box()
            page.mouse.move(
                box["x"] + draw.uniform(50, box["width"] - 20), box["y"] + draw.uniform(20, box["height"] - 20)
            )
            page.mouse.down()
            page.mouse.move(box["x"] + draw.uniform(50, box["width"] - 20), box["y"] + 60)
            page.mouse.up()
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        explorer.settle(page.evaluate("window.traits.state"))
        cut = explorer.cut
        told = f"kept {cut.n_kept:,} of {cut.n - cut.n_unscored:,} scored rows"
        ties = f"{cut.n_tied_at_cut:,} lie exactly there, {cut.n_tied_kept:,} of them kept"
        said = account.inner_text()
        assert said.startswith(told), (said, cut, explorer.selection)
        assert ties in said or cut.threshold is None, (said, cut, explorer.selection)
        assert said.endswith(f"; {cut.n_unscored:,} unscored")
    page.close()


@pytest.mark.slow
@pytest.mark.browser
def test_a_selection_of_the_explorer_is_what_review_draws_from(open_lab):
    lab, page = open_lab, open_lab.page
    book = lab.root / "notebooks" / "review.ipynb"
    text = book.read_text()
    assert text.count('selection: str = \\"\\"') == 1
    try:
        book.write_text(text.replace('selection: str = \\"\\"', "selection: str = 'quality >= 0.8'"))
        run_all(lab, "notebooks/review.ipynb")
        said = page.evaluate(IN_KERNEL, "print(sorted(queue['quality_score']), set(queue['why']), set(queue['queue']))")
    finally:
        book.write_text(text)
    qualities, rest = said.split("] ")
    assert set(json.loads(qualities + "]")) <= {0.8, 0.85}
    assert rest == "{'picked'} {None}"


@pytest.mark.slow
@pytest.mark.browser
def test_2_curate_runs_from_top_to_bottom_and_folds_what_people_decided(open_lab, tmp_path):
    lab, page = open_lab, open_lab.page
    lake = Lake(lab.root / "data" / "lake")
    lake.collect()
    n_reviews = lake["reviews"].rows
    before = lake["training_data_curated"].version
    run_all(lab, "notebooks/2_curate.ipynb")
    page.locator(".jp-OutputArea-output", has_text="6 outputs = ").first.wait_for()
    screenshot(lab, "curate", tmp_path)
    for _ in range(3):
        page.keyboard.press("PageUp")
    page.locator(".jp-RenderedImage img").first.scroll_into_view_if_needed()
    screenshot(lab, "curate-distribution", tmp_path)
    assert lake["training_data_curated"].version == before + 1
    kept = lake["training_data_curated"].read()
    assert 1 <= kept.height <= 6
    decided = set(lake["reviews"].read()["custom_id"])
    assert all(row["needs_review"] == (row["custom_id"] not in decided) for row in kept.to_dicts())
    assert lake["reviews"].rows == n_reviews
    (run,) = [run for run in records.as_json(lab.root) if run["launched_by"] == "jupyter"]
    assert (run["phase"], run["status"]) == ("curate", "ok"), run
    whole = records.read(Path(run["folder"]))
    assert whole["tables_written"]["training_data_curated"]["version"] == before + 1
    assert whole["headline"]["n_kept"] == kept.height
    assert not lab.strayed, lab.strayed
