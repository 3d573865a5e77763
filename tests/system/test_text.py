"""What records, models and tables say steers no terminal and is no HTML, whichever command or display shows it."""

import contextlib
import dataclasses
import html as entities
import json
import os
import re
import sys
import unicodedata
import warnings
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CHECKOUT, FUZZ, notebook, people

from arislab import __main__, finetune, runs
from arislab.finetune import previews
from arislab.lake import Lake
from arislab.records import find as records
from arislab.system import text

ALL = st.text(max_size=60) | st.lists(
    st.sampled_from(
        [
            "\x1b[31m",
            "\x1b]0;t\x07",
            "\x1b]8;;x\x1b\\",
            "\x9b2J",
            "\x1bP",
            "\x9d",
            "\x1b",
            "\u202e",
            "\r",
            "a",
            "<",
            "é",
            "🙂",
        ]
    )
).map("".join)


def steers(shown):
    """The characters that a terminal obeys instead of showing them."""
    return [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\t\n"] + re.findall(
        "[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", shown
    )


@given(ALL)
@settings(max_examples=FUZZ, deadline=None)
def test_no_text_steers_a_terminal_and_none_is_changed_twice(given_text):
    shown = text.terminal(given_text)
    assert steers(shown) == []
    assert text.terminal(shown) == shown
    assert "\n" not in text.one_line(given_text)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=60))
@settings(max_examples=FUZZ, deadline=None)
def test_what_is_only_text_stays(given_text):
    assert text.terminal(given_text + "\t\n") == given_text + "\t\n"
    assert entities.unescape(text.html(given_text)) == given_text


@given(ALL)
@settings(max_examples=FUZZ, deadline=None)
def test_no_text_is_markup(given_text):
    assert not re.search("[<>\"']", text.html(given_text))
    assert not re.search("&(?!(amp|lt|gt|quot|#x27);)", text.html(given_text))


@given(
    st.recursive(
        ALL | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(ALL, inner), max_leaves=5
    )
)
@settings(max_examples=FUZZ, deadline=None)
def test_json_is_shown_without_being_changed(value):
    written = text.json_text(json.dumps(value, ensure_ascii=False))
    assert json.loads(written) == value
    assert [c for c in steers(written) if c != "\x7f"] == []


# ---- every command

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202eevil\u2066\x9b1m<script>alert(1)</script>\rspoof"


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A root whose tables and records hold text that would steer a terminal."""
    root = tmp_path_factory.mktemp("poisoned")
    before = {name: os.environ.get(name) for name in ("ARISLAB_ROOT", "ARISLAB_RUN_ID")}
    os.environ["ARISLAB_ROOT"] = str(root)
    os.environ.pop("ARISLAB_RUN_ID", None)
    lake = Lake(root / "data" / "lake", run_id=f"run {EVIL}")
    profile = json.dumps({"text": EVIL})
    lake["candidates"].append(
        people(3).with_columns(category=pl.lit(EVIL), title=pl.lit(EVIL), profile=pl.lit(profile))
    )
    book = notebook(root / "books", f"evil = {EVIL!r}\nraise ValueError(evil)") / "2_curate.ipynb"
    for label in (EVIL, "other"):
        made = runs.execute(str(book), {"label": label}, root=root)
        path = made.folder / "run.json"
        raw = json.loads(path.read_text())
        table = {"rows": EVIL, "version": EVIL, "digest": EVIL, "columns": None}
        raw |= {
            "reason": EVIL,
            "phase": EVIL,
            "launched_by": EVIL,
            "cause": EVIL,
            "tables_read": {EVIL: table},
            "headline": {EVIL: EVIL},
        }
        raw["parameters_from"] = dict.fromkeys(raw["parameters"], EVIL)
        raw["cell"]["heading"] = EVIL
        raw["parameters"] |= {EVIL: EVIL}
        path.write_text(json.dumps(raw))
    yield root
    for name, value in before.items():
        if value is not None:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


COMMANDS = [
    ["runs"],
    ["runs", "--json"],
    ["runs", "--where", f"phase = '{EVIL}'"],
    ["runs", "--where", f"{EVIL} ="],
    ["runs", "--sort", EVIL],
    ["runs", "show", "RUN"],
    ["runs", "show", "RUN", "--json"],
    ["runs", "show", EVIL],
    ["runs", "diff", "RUN", "OTHER"],
    ["runs", "diff", "RUN", "OTHER", "--json"],
    ["runs", "export", "RUN", "--ro-crate", "CRATE"],
    ["verify", "RUN", "--level", "0"],
    ["verify", "RUN", "--level", "0", "--json"],
    ["verify", "RUN"],
    ["rerun", "RUN"],
    ["resume", "RUN"],
    ["run", EVIL],
    ["run", "curate", "-p", "seed", EVIL],
    ["sql", "select title, category from candidates"],
    ["sql", "select title, category from candidates", "--format", "json"],
    ["sql", f"select '{EVIL}' from"],
    ["lineage", "c0000"],
    ["lineage", "c0000", "--json"],
    ["lineage", EVIL],
    ["doctor"],
    ["export", "--icl", "--use-case", EVIL],
    ["import", f"{EVIL}.jsonl", "--as", "candidates", "--id", EVIL],
    ["batch", "status"],
    ["batch", "plan", "missing.jsonl", "--base-url", f"http://127.0.0.1:9/{EVIL}"],
]


@pytest.mark.parametrize(
    "words",
    COMMANDS,
    ids=lambda words: " ".join(words[:4]).encode("ascii", "ignore").decode().translate({27: "", 7: ""})[:40],
)
def test_no_command_prints_what_steers_a_terminal(poisoned, tmp_path, monkeypatch, capfd, words):
    first, other = sorted(path.name for path in (poisoned / "papermill_runs").glob("2*"))
    named = {"RUN": first, "OTHER": other, "CRATE": str(tmp_path / "crate")}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["arislab", *(named.get(word, word) for word in words), "--root", str(poisoned)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("ARISLAB_ROOT", str(poisoned))
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):  # anything else would be a traceback
        __main__.main()
    printed = capfd.readouterr()
    assert printed.out or printed.err
    for stream in printed:
        assert steers(stream) == []


def test_a_log_holds_what_a_cell_printed_without_what_steers(poisoned):
    for log in (poisoned / "papermill_runs").glob("2*/log.txt"):
        assert steers(log.read_text()) == []
        assert "evil" in log.read_text()


def test_no_display_shows_markup_of_others(poisoned):
    shown = [
        runs.list_runs(poisoned)._repr_html_(),
        Lake(poisoned / "data" / "lake")._repr_html_(),
        runs.headline(runs.account(1, label=EVIL, **{EVIL: 1}), **{EVIL: EVIL})._repr_mimebundle_()["text/html"],
        runs.account(1, label=EVIL, **{EVIL: 1})._repr_html_(),
    ]
    shown.append(finetune.Preview((("r-1", "from $50k", "to $70k"),), {"ok": 1})._repr_html_())
    for markup in shown:
        assert "<script" not in markup
        assert steers(markup) == []
        assert re.match(rf"<\w+ {text.AS_IS}>", markup), "no formula is made of two prices"


def test_every_escape_for_html_goes_through_one_function():
    """layout shows each hidden character as a mark instead of leaving it out: who judges a text must see all of it."""
    users = [
        p.name
        for p in sorted((CHECKOUT / "arislab").rglob("*.py"))
        if re.search(r"html\.escape\(|from html import", p.read_text())
    ]
    assert users == ["layout.py", "text.py"]
    assert previews.html is text.html


def test_no_module_of_the_command_prints_by_itself():
    """ruff refuses the builtin print; typer's would pass everything through."""
    assert [p.name for p in (CHECKOUT / "arislab").rglob("*.py") if "typer.echo(" in p.read_text()] == []
    config = (CHECKOUT / "pyproject.toml").read_text()
    assert '"T20"' in config
    assert not re.search(r'"arislab/[^"]*" = \["T20"\]', config)


def test_a_poisoned_record_is_still_a_record(poisoned):
    listed = records.as_json(poisoned)
    assert [run["reason"] for run in listed] == [EVIL, EVIL]
    assert dataclasses.is_dataclass(runs.Record)
    assert Path(listed[0]["folder"]).is_dir()
