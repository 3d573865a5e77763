"""The engine under papermill.

What a cell keeps, what a widget leaves behind, and that plain papermill leaves a record too."""

import json

import pytest
from nbformat.sign import NotebookNotary
from toys import code_cells, executed, here, notebook, ran_well

from arislab import runs
from arislab.cli import report


def test_outputs_that_are_too_large_go_to_files_and_say_where(root):
    page = "from IPython.display import HTML, display\n"
    page += "display(HTML('<b>' + 'y' * 600_000 + '</b>'))\ndisplay(HTML('<i>small</i>'))"
    storm = "for i in range(200): display(HTML('z' * 5_000))"
    record = ran_well(root, page, storm)
    large, small = code_cells(record)[-2].outputs
    assert "text/html" not in large.data
    (name,) = [p.name for p in (record.folder / "outputs").glob("*.html") if p.stat().st_size > 600_000]
    assert f"whole in outputs/{name}" in large.data["text/plain"]
    assert (record.folder / "outputs" / name).read_text().count("y") == 600_000
    assert small.data["text/html"] == "<i>small</i>"
    stormed = code_cells(record)[-1].outputs
    assert "more outputs; whole in outputs/" in stormed[-1].data["text/plain"]
    n_files = sum("-rest" not in p.name for p in (record.folder / "outputs").iterdir())
    (rest,) = (record.folder / "outputs").glob("*-rest.json")
    assert len(stormed) + len(json.loads(rest.read_text())) == 200
    assert n_files <= 21
    files = json.loads((record.folder / "run.json").read_text())["files"]
    assert f"outputs/{rest.name}" in files


FIGURES = """from matplotlib import pyplot as plt
for width in (1, 2, 3):
    plt.figure(figsize=(width, 1)); plt.plot([0, 1]); plt.show()"""


def width(path):
    """Of a PNG, pixels: its first block says it."""
    return int.from_bytes(path.read_bytes()[16:20], "big")


def test_the_main_plot_of_a_run_is_a_file_of_its_record_which_is_named_and_verified(root):
    record = ran_well(root, FIGURES)
    plot = record.folder / "outputs" / "main-plot.png"
    last = width(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "outputs/main-plot.png" in json.loads((record.folder / "run.json").read_text())["files"]
    assert f"  plot      {plot}\n" in report.of(record)
    done = here("verify", record.run_id, "--root", root, "--level", "0")
    assert done.returncode == 0, done
    assert "V0 equal" in done.stdout
    plot.write_bytes(plot.read_bytes() + b"more")
    done = here("verify", record.run_id, "--root", root, "--level", "0")
    assert (done.returncode, "outputs/main-plot.png" in done.stdout) == (3, True), done.stdout

    books = notebook(root / "tagged", FIGURES, FIGURES.replace("(1, 2, 3)", "(4, 5)"))
    path = books / "2_curate.ipynb"
    book = json.loads(path.read_text())
    [cell] = [cell for cell in book["cells"] if "(4, 5)" in "".join(cell["source"])]
    cell["metadata"]["tags"] = ["main-plot"]
    path.write_text(json.dumps(book))
    tagged = runs.execute("curate", {}, root=root, notebooks=books).folder / "outputs" / "main-plot.png"
    assert 1.1 < width(tagged) / last < 1.6, "the first of the cell that says so, not the last of all"


def test_a_record_shows_frames_in_the_house_style_printed_or_not(root):
    made = (
        "import polars as pl\nfrom arislab.lake import Lake\nframe = pl.DataFrame({'n_rows': [170_000], 'text': ['a']})"
    )
    printed, shown = code_cells(ran_well(root, f"{made}\nprint(frame)\nframe"))[-1].outputs
    assert shown.data["text/plain"] == " n_rows  text\n170,000  a"
    for text in (printed.text, shown.data["text/html"]):
        assert "i64" not in text
        assert "str" not in text


def test_a_run_without_a_figure_names_none(root):
    record = ran_well(root, "n")
    assert not (record.folder / "outputs").exists()
    assert "  plot " not in report.of(record)


def test_widgets_leave_words_of_their_last_state(root):
    bars = (
        "import ipywidgets as w\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(50), desc='batch'): pass",
        "box = w.VBox([w.Label('<one>'), w.Checkbox(True, description='blind')])\nbox",
        "box.children[0].value = 'two'",
    )
    record = ran_well(root, *bars)
    bar, box = code_cells(record)[-3].outputs[0], code_cells(record)[-2].outputs[0]
    assert bar.data["text/plain"].startswith("batch: 100% 50/50 [00:00<00:00"), "the count once, and no HTML"
    assert "batch" in bar.data["text/html"]
    assert box.data["text/plain"] == "two blind True"
    assert box.data["text/html"] == "<pre>two blind True</pre>"


@pytest.mark.slow
def test_an_executed_notebook_is_trusted_for_its_owner_and_any_other_is_not(root, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(root / "jupyter"))
    record = ran_well(root, "1 + 1")
    notary = NotebookNotary()
    assert notary.check_signature(executed(record))
    other = executed(record)
    other.cells[-1].outputs[0].data["text/plain"] = "3"
    assert not notary.check_signature(other)


def test_the_injected_cell_has_the_same_id_in_every_run_and_exact_values(root):
    source = "from datetime import date\nday: date = date(2026, 1, 31)  # first day\n"
    source += "pair: tuple[int, float] = (1, 2.0)\nlabel: str | None = None"
    book = notebook(
        root / "notebooks",
        "assert (day, pair, label) == (date(2026, 2, 3), (7, 0.5), '007'), (day, pair, label)",
        parameters=source,
    )
    record = runs.execute("curate", {"day": "2026-02-03", "pair": "7, 0.5", "label": "007"}, root=root, notebooks=book)
    assert record.status == "ok", record
    assert record.parameters == {"day": "2026-02-03", "pair": [7, 0.5], "label": "007"}
    assert record.parameter_types == {"day": "date", "pair": "tuple[int, float]", "label": "str | None"}
    assert code_cells(record)[1].id == "injected-parameters"
    assert executed(record).metadata.papermill.parameters == record.parameters
