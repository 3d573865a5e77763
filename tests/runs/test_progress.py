"""A run tells where it is, by what its kernel says anyway."""

from typing import ClassVar

import pytest
from toys import notebook, saved

from arislab import runs
from arislab.runs.progress import Bars, Teller

BARS = """from tqdm.auto import tqdm
import time
with tqdm(total=2, desc="outer <b>", unit="req") as outer:
    for _ in range(2):
        for _ in tqdm(range(8), desc="inner", mininterval=0): time.sleep(0.06)
        outer.update()"""


def told(root, *cells, **given):
    steps = []
    books = notebook(root / "notebooks", *cells)
    record = runs.execute("curate", given, root=root, notebooks=books, tell=steps.append)
    return record, steps


def test_each_cell_is_told_and_in_it_what_its_bars_say(root):
    record, steps = told(root, "1", BARS, "2")
    assert record.status == "ok"
    first = [(step.cell, step.n_cells, step.heading) for step in steps if not step.bars]
    assert list(dict.fromkeys(first)) == [(n, 4, "A toy") for n in (1, 2, 3, 4)]
    both = [step.bars for step in steps if len(step.bars) == 2]
    assert both
    assert all(bars[0].startswith("outer <b>: ") and bars[1].startswith("inner: ") for bars in both)
    assert any("1/2 [" in outer for outer, _ in both)
    assert {step.cell for step in steps if step.bars} == {3}


@pytest.mark.slow
def test_a_record_holds_the_same_whether_somebody_watches_or_not(root, tmp_path):
    watched, steps = told(root, "print(n)", BARS)
    alone = runs.execute("curate", {}, root=tmp_path / "alone", notebooks=root / "notebooks")
    assert steps
    one, other = (saved(record) for record in (watched, alone))
    assert one.keys() == other.keys()
    assert one["run_key"] == other["run_key"]
    assert one["files"].keys() == other["files"].keys()
    from arislab.runs.compare import compare

    again = compare(one | {"folder": str(watched.folder)}, other | {"folder": str(alone.folder)})
    assert again.findings == []


def test_what_is_told_holds_no_key_and_steers_no_terminal(root, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sk-planted-8151")
    shown = "import os, time\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(20), desc=os.environ['MY_API_KEY'] + "
    shown += "'\\x1b[2J', mininterval=0): time.sleep(0.05)"
    record, steps = told(root, shown)
    assert record.status == "ok"
    texts = [text for step in steps for text in (step.heading, *step.bars)]
    assert any(step.bars for step in steps)
    assert not [text for text in texts if "planted" in text or "\x1b" in text]


def test_a_bar_at_its_end_or_of_another_cell_says_nothing():
    def heard(bars, **states):
        for name, state in states.items():
            bars.hear({"msg_type": "comm_open", "content": {"comm_id": name, "data": {"state": state}}})

    bars = Bars()
    box = {"_model_name": "HBoxModel", "children": ["IPY_MODEL_left", "IPY_MODEL_bar", "IPY_MODEL_right"]}
    bar = {"_model_name": "FloatProgressModel", "bar_style": "", "value": 1.0}
    heard(
        bars,
        left={"value": "batch:\u2007\u200734%"},
        bar=bar,
        right={"value": "\u200734/100 [00:05&lt;00:10]"},
        box=box,
    )
    assert bars.words() == ("batch: 34/100 [00:05<00:10]",)
    change = {"msg_type": "comm_msg", "content": {"comm_id": "bar", "data": {"state": {"bar_style": "success"}}}}
    assert bars.hear(change)
    assert bars.words() == ()
    bars.clear()
    assert not bars.hear(change), "a widget of an earlier cell"
    heard(bars, box=box | {"children": None}, other={"value": 3})
    assert bars.words() == ()
    assert not bars.hear({"msg_type": "comm_close", "content": {"comm_id": "nobody"}})


def test_nothing_is_read_of_the_widgets_when_nobody_watches(monkeypatch):
    monkeypatch.setattr(Bars, "hear", lambda *_: 1 / 0)
    Teller(None, n_cells=1).hear({"msg_type": "comm_msg", "content": {}})


def test_a_cell_is_called_by_the_heading_that_it_stands_under_else_by_its_first_line():
    from types import SimpleNamespace

    from arislab.runs.log import Watch

    kinds = [
        ("code", "x = 1"),
        ("markdown", "# Top\n\nWords"),
        ("code", "y = 1"),
        ("markdown", "no heading"),
        ("code", "z"),
    ]
    source = [{"cell_type": kind, "source": text, "id": str(n)} for n, (kind, text) in enumerate(kinds)]
    told, logged = [], []
    watch = Watch(source, SimpleNamespace(line=logged.append), starts=lambda *step: told.append(step))
    for n in (0, 2, 4):
        watch.cell_starts(Cell(source[n]), n)
    assert told == [(1, "x = 1"), (2, "Top"), (3, "Top")]
    assert logged == ["cell 1/3: x = 1", "cell 2/3: Top", "cell 3/3: z"], "the log names the cell itself"


class Cell(dict):
    """A cell as nbclient hands it on."""

    metadata: ClassVar[dict[str, str]] = {}
    source = property(lambda self: self["source"])
