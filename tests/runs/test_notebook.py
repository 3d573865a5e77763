"""The engine under papermill.

What a cell keeps, what a widget leaves behind, and that plain papermill leaves a record too.
"""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import hypothesis.strategies as st
import nbformat
import pytest
from hypothesis import given, settings
from nbformat.sign import NotebookNotary
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from toys import notebook

from arislab import runs
from arislab.runs import notebook as notebook_file
from arislab.runs import parameters


def executed(record):
    return nbformat.read(record.folder / "notebook.ipynb", 4)


def code_cells(record):
    return [cell for cell in executed(record).cells if cell.cell_type == "code"]


def ran(root, *cells, **given):
    record = runs.execute("curate", given, root=root, notebooks=notebook(root / "notebooks", *cells))
    assert record.status == "ok", record
    return record


def test_streams_are_joined_as_they_come_and_bounded_and_the_log_has_all(root):
    many = "import sys\nfor i in range(3000):\n    print(i, flush=True)\n    print('e', file=sys.stderr, flush=True)"
    record = ran(
        root, many, "print('x' * 1_000_000)", "for i in range(5): print(f'\\r{i}', end='', flush=True)\nprint()"
    )
    first, second, third = code_cells(record)[-3:]
    assert [(o.name, o.output_type) for o in first.outputs] == [("stdout", "stream"), ("stderr", "stream")]
    assert first.outputs[0].text == "".join(f"{i}\n" for i in range(3000))
    kept = sum(len(o.text) for o in second.outputs)
    assert 100_000 < kept < notebook_file.CAP_BYTES
    assert second.outputs[-1].text.endswith("log.txt has more of it]\n")
    assert third.outputs[0].text == "4\n", "a line that was overwritten shows its end"
    assert (record.folder / "log.txt").read_text().count("x") > 1_000_000
    assert (record.folder / "notebook.ipynb").stat().st_size < 400_000


def test_outputs_that_are_too_large_go_to_files_and_say_where(root):
    page = "from IPython.display import HTML, display\ndisplay(HTML('<b>' + 'y' * 600_000 + '</b>'))\ndisplay(HTML('<i>small</i>'))"
    storm = "for i in range(200): display(HTML('z' * 5_000))"
    record = ran(root, page, storm)
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
    record = ran(root, *bars)
    bar, box = code_cells(record)[-3].outputs[0], code_cells(record)[-2].outputs[0]
    assert "50/50" in bar.data["text/plain"]
    assert "batch" in bar.data["text/html"]
    assert box.data["text/plain"] == "two blind True"
    assert box.data["text/html"] == "<pre>two blind True</pre>"


def test_an_executed_notebook_is_trusted_for_its_owner_and_any_other_is_not(root, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(root / "jupyter"))
    record = ran(root, "1 + 1")
    notary = NotebookNotary()
    assert notary.check_signature(executed(record))
    other = executed(record)
    other.cells[-1].outputs[0].data["text/plain"] = "3"
    assert not notary.check_signature(other)


def test_the_injected_cell_has_the_same_id_in_every_run_and_exact_values(root):
    source = "from datetime import date\nday: date = date(2026, 1, 31)  # first day\npair: tuple[int, float] = (1, 2.0)\nlabel: str | None = None"
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


KINDS = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.text(),
    "date": st.dates(),
    "int | None": st.none() | st.integers(),
    "list[str]": st.lists(st.text()),
    "tuple[int, date]": st.tuples(st.integers(), st.dates()),
    "tuple[float, ...]": st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    "dict": st.dictionaries(st.text(), st.integers() | st.text()),
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind])))
def test_every_value_survives_the_record_the_command_line_and_the_cell(drawn):
    kind, value = drawn
    declared = {"x": runs.Parameter("x", kind, None, "")}

    def same(found):
        assert repr(found) == repr(value)

    same(runs.convert(declared, {"x": value})["x"])
    same(runs.convert(declared, {"x": json.loads(json.dumps(parameters.plain(value)))})["x"])
    same(runs.convert(declared, {"x": parameters.as_text(value)})["x"])
    same(eval(parameters.as_code(value), {}))


def test_parameters_come_from_a_file_and_the_command_line_goes_before(root):
    book = notebook(root / "notebooks", "1")
    (root / "p.yaml").write_text("n: 5\nlabel: '007'\nnames: [a, b]\n")
    command = [sys.executable, "-m", "arislab", "run", str(book / "2_curate.ipynb"), "--root", str(root)]
    done = subprocess.run(
        [*command, "-f", str(root / "p.yaml"), "-p", "n", "6"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    record = json.loads((next((root / "papermill_runs").glob("2*")) / "run.json").read_text())
    assert record["parameters_passed"] == {"n": 6, "label": "007", "names": ["a", "b"]}
    assert {n: record["parameters_from"][n] for n in ("n", "label", "seed")} == {
        "n": "-p",
        "label": "-f p.yaml",
        "seed": "default",
    }
    for text, says in (
        ("- 1\n", "holds list"),
        ("{", "cannot read"),
        ("n: 1e3\n", "n must be a whole number, got '1e3'"),
    ):
        (root / "p.yaml").write_text(text)
        done = subprocess.run([*command, "-f", str(root / "p.yaml")], capture_output=True, text=True, check=False)
        assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_the_help_of_a_phase_is_its_parameters():
    done = subprocess.run(
        [sys.executable, "-m", "arislab", "run", "curate", "--help"], capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("keep_fraction")]
    assert line.split()[1:3] == ["float", "0.2"]
    assert "in (0, 1]" in line
    plain = subprocess.run(
        [sys.executable, "-m", "arislab", "run", "--help"], capture_output=True, text=True, check=True
    )
    assert "--cell-timeout" in plain.stdout


def papermill(root, *words):
    command = [str(Path(sys.executable).with_name("papermill")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def phase_notebook(root, *cells):
    path = notebook(root / "notebooks", *cells) / "2_curate.ipynb"
    nb = nbformat.read(path, 4)
    nb.metadata.arislab = {"phase": "curate"}
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, path)
    return path


def test_plain_papermill_leaves_a_record_of_a_phase(root):
    path = phase_notebook(root, "from arislab import runs\nruns.headline(share=keep_fraction)")
    done = papermill(root, path, root / "out.ipynb", "-p", "keep_fraction", "0.1")
    assert done.returncode == 0, done.stderr
    (found,) = runs.as_json(root)
    assert (found["status"], found["launched_by"]) == ("ok", "papermill")
    assert found["headline"] == {"share": 0.1}
    assert found["parameters"]["keep_fraction"] == 0.1
    out = nbformat.read(root / "out.ipynb", 4)
    assert [c.metadata.papermill.status for c in out.cells if c.cell_type == "code"] == ["completed"] * 3


@pytest.mark.parametrize(
    ("cell", "status", "said"),
    [
        ("1 / 0", "failed", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "failed", ""),
        ("import os; os.kill(os.getpid(), 9)", "killed", "DeadKernelError"),
    ],
)
def test_plain_papermill_tells_how_a_phase_ended(root, cell, status, said):
    path = phase_notebook(root, cell, "2")
    done = papermill(root, path, root / "out.ipynb")
    assert said in done.stderr
    (found,) = runs.as_json(root)
    assert found["status"] == status
    out = nbformat.read(root / "out.ipynb", 4)
    states = [c.metadata.papermill.status for c in out.cells if c.cell_type == "code"]
    assert states[-1] == "not-run"
    assert states[-2] == ("failed" if status == "failed" else "running")


def test_plain_papermill_refuses_a_misspelt_parameter_and_leaves_other_notebooks_alone(root):
    path = phase_notebook(root, "1")
    done = papermill(root, path, root / "out.ipynb", "-p", "keep_fracton", "0.1")
    assert done.returncode != 0
    assert "did you mean 'keep_fraction'" in done.stderr
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("x")])
    other.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(other, root / "other.ipynb")
    assert papermill(root, root / "other.ipynb", root / "out.ipynb", "-p", "x", "3").returncode == 0
    assert runs.as_json(root) == []
    assert papermill(root, root / "other.ipynb", root / "out.ipynb", "--engine", "arislab").returncode == 0
    assert [run["phase"] for run in runs.as_json(root)] == ["other"]


def test_papermill_finds_the_engine_whoever_is_imported_first():
    for first in ("papermill", "arislab.plugin"):
        code = f"import {first}, papermill; from papermill.engines import papermill_engines as e; print(e.get_engine('arislab').__name__, e.get_engine(None).__name__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["RecordedRun", "Chooser"], first


def test_events_are_those_of_openlineage(root):
    record = ran(
        root,
        "import polars as pl\nfrom arislab.lake import Lake\nlake = Lake()\nlake['reviews'].read()\n"
        "lake['candidates'].append(pl.DataFrame({'candidate_id': ['a'], 'profile': '{}', 'group_id': 'g', 'split': 'train'}))",
    )
    lines = [json.loads(line) for line in (record.folder / "events.jsonl").read_text().splitlines()]
    assert [line["eventType"] for line in lines] == ["START", "COMPLETE"]
    for line in lines:  # the classes of the standard's own client check identifiers, times and URIs
        event = RunEvent(
            eventTime=line["eventTime"],
            producer=line["producer"],
            run=Run(**line["run"]),
            job=Job(**line["job"]),
            eventType=RunState(line["eventType"]),
            inputs=[InputDataset(**told) for told in line["inputs"]],
            outputs=[OutputDataset(**told) for told in line["outputs"]],
        )
        assert event.run.runId == lines[0]["run"]["runId"]
        assert line["schemaURL"].startswith("https://openlineage.io/spec/2-0-2/OpenLineage.json")
        facets = [
            f for part in (line["run"], line["job"], *line["inputs"], *line["outputs"]) for f in part["facets"].values()
        ]
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets)
    (made,) = lines[1]["outputs"]
    assert (made["name"], made["outputFacets"]["outputStatistics"]["rowCount"]) == ("candidates", 1)
    assert made["facets"]["version"]["datasetVersion"] == "0"


def test_two_runs_of_a_phase_queue_if_they_are_told_to(root):
    book = notebook(root / "notebooks", "import time; time.sleep(1)")
    code = "import sys; from pathlib import Path; from arislab import runs; "
    code += "print(runs.execute('curate', root=Path(sys.argv[1]), notebooks=Path(sys.argv[2]), wait=True).status)"
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(root), str(book)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["ok", "ok"]
    first, second = sorted(runs.as_json(root), key=lambda run: run["created_at"])
    assert second["created_at"] >= first["finished_at"]


def test_dates_are_shown_in_help_as_they_are_passed():
    assert "2026-01-31" in parameters.describe({"d": runs.Parameter("d", "date", date(2026, 1, 31), "day")})


def test_a_reader_of_the_log_finds_no_secret_of_the_engine(root, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sk-planted-998877")
    record = ran(root, "from IPython.display import HTML\nimport os\nHTML('k' * 300_000 + os.environ['MY_API_KEY'])")
    for path in record.folder.rglob("*"):
        assert not path.is_file() or b"sk-planted" not in path.read_bytes(), path
    assert os.environ["MY_API_KEY"]
