"""The engine under papermill.

What a cell keeps, what a widget leaves behind, and that plain papermill leaves a record too."""

import json

from nbformat.sign import NotebookNotary
from toys import code_cells, executed, notebook, ran_well

from arislab import runs


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


def test_widgets_leave_words_of_their_last_state(root):
    bars = (
        "import ipywidgets as w\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(50), desc='batch'): pass",
        "box = w.VBox([w.Label('<one>'), w.Checkbox(True, description='blind')])\nbox",
        "box.children[0].value = 'two'",
    )
    record = ran_well(root, *bars)
    bar, box = code_cells(record)[-3].outputs[0], code_cells(record)[-2].outputs[0]
    assert "50/50" in bar.data["text/plain"]
    assert "batch" in bar.data["text/html"]
    assert box.data["text/plain"] == "two blind True"
    assert box.data["text/html"] == "<pre>two blind True</pre>"


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
