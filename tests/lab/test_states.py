"""A newer arislab renews what nobody edited, shows the rest, and writes over nothing that people have."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arislab import lab
from arislab.errors import ParameterError, PrerequisiteError
from arislab.lab import states, templates
from arislab.system import files


def book(*sources, outputs=(), tags=("parameters",), ids="abc"):
    """A notebook as bytes: a cell a source, the first one tagged."""
    cells = [
        {
            "cell_type": "code",
            "id": f"{ids}{i}",
            "source": source.splitlines(keepends=True),
            "outputs": list(outputs),
            "execution_count": len(outputs) or None,
            "metadata": {"tags": list(tags)} if i == 0 else {},
        }
        for i, source in enumerate(sources)
    ]
    content = {"cells": cells, "metadata": {"arislab": {"phase": "curate"}}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1 + bool(outputs)).encode()


OLD, NOW = book("keep = 0.2", "run()"), book("keep = 0.2", "run(fast=True)")
RAN = book("keep = 0.2", "run()", outputs=[{"output_type": "stream", "name": "stdout", "text": "hello"}], ids="z")


@pytest.fixture
def shipped(monkeypatch):
    """The templates of an arislab; a test changes them as a release would."""
    content = {"README.md": b"one\n", "notebooks/2_curate.ipynb": OLD, "notebooks/tasks/t.py": b"NAME = 't'\n"}
    monkeypatch.setattr(templates, "shipped", lambda: dict(content))
    return content


def states_of(changes):
    return {change.place: change.state for change in changes if change.state != "unchanged"}


def test_a_lab_holds_the_templates_and_is_marked(shipped, tmp_path):
    folder = tmp_path / "a lab"
    assert set(states_of(lab.init(folder)).values()) == {"new"}
    assert {place: (folder / place).read_bytes() for place in shipped} == shipped
    assert 'arislab = "' in (folder / "arislab.toml").read_text()
    assert (folder / "papermill_runs").is_dir()
    assert states_of(lab.update(folder)) == {}
    with pytest.raises(PrerequisiteError, match="is a lab already: arislab init --update"):
        lab.init(folder)


def test_what_stands_in_a_folder_stays_when_it_becomes_a_lab(shipped, tmp_path):
    (tmp_path / "README.md").write_text("mine\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "2_curate.ipynb").write_bytes(RAN)  # the template, run: no other file
    done = lab.init(tmp_path)
    assert states_of(done) == {"README.md": "in the way", "notebooks/tasks/t.py": "new"}
    assert (tmp_path / "README.md").read_text() == "mine\n"
    assert (tmp_path / "notebooks" / "2_curate.ipynb").read_bytes() == RAN
    (shown,) = [change.diff for change in done if change.state == "in the way"]
    assert shown.splitlines()[-2:] == ["-mine", "+one"]


def test_an_untouched_notebook_is_renewed_and_an_edited_one_is_shown(shipped, tmp_path):
    lab.init(tmp_path)
    (tmp_path / "notebooks" / "tasks" / "t.py").write_text("NAME = 'mine'\n")
    shipped |= {"notebooks/2_curate.ipynb": NOW, "notebooks/tasks/t.py": b"NAME = 'newer'\n"}
    planned = lab.changes(tmp_path)
    assert (tmp_path / "notebooks" / "2_curate.ipynb").read_bytes() == OLD
    done = lab.update(tmp_path)
    assert done == planned
    assert states_of(done) == {"notebooks/2_curate.ipynb": "renewed", "notebooks/tasks/t.py": "edited"}
    assert (tmp_path / "notebooks" / "2_curate.ipynb").read_bytes() == NOW
    assert (tmp_path / "notebooks" / "tasks" / "t.py").read_text() == "NAME = 'mine'\n"
    (shown,) = [change.diff for change in done if change.state == "edited"]
    assert shown.splitlines()[-2:] == ["-NAME = 't'", "+NAME = 'newer'"]  # what came with arislab, not the own edit


def test_a_diff_of_a_notebook_is_one_of_its_cells(shipped, tmp_path):
    lab.init(tmp_path)
    (tmp_path / "notebooks" / "2_curate.ipynb").write_bytes(book("keep = 0.5", "run()"))
    shipped["notebooks/2_curate.ipynb"] = NOW
    (shown,) = [change.diff for change in lab.update(tmp_path) if change.state == "edited"]
    assert [line for line in shown.splitlines() if line[0] in "+-"][2:] == ["-run()", "+run(fast=True)"]
    assert " # %% [code]" in shown.splitlines()


def test_outputs_of_a_renewed_notebook_are_set_aside(shipped, tmp_path):
    lab.init(tmp_path)
    path = tmp_path / "notebooks" / "2_curate.ipynb"
    path.write_bytes(RAN)
    assert states_of(lab.update(tmp_path)) == {}  # run and saved: nothing to do
    assert path.read_bytes() == RAN
    shipped["notebooks/2_curate.ipynb"] = NOW
    assert states_of(lab.update(tmp_path)) == {"notebooks/2_curate.ipynb": "renewed"}
    assert path.read_bytes() == NOW
    (before,) = (tmp_path / ".arislab" / "replaced").rglob("2_curate.ipynb")
    assert before.read_bytes() == RAN


def test_an_edit_that_stands_is_not_asked_about_until_the_template_changes_again(shipped, tmp_path):
    lab.init(tmp_path)
    (tmp_path / "README.md").write_text("mine\n")
    shipped["README.md"] = b"two\n"
    assert states_of(lab.update(tmp_path)) == {"README.md": "edited"}
    assert states_of(lab.update(tmp_path)) == {"README.md": "edited"}
    lab.update(tmp_path, keep=["README.md"])
    assert states_of(lab.update(tmp_path)) == {}
    shipped["README.md"] = b"three\n"
    (change,) = [change for change in lab.update(tmp_path) if change.state == "edited"]
    assert change.diff.splitlines()[-2:] == ["-two", "+three"]
    assert (tmp_path / "README.md").read_text() == "mine\n"
    with pytest.raises(ParameterError, match=r"'readme' is no template of a lab; one is: README\.md, "):
        lab.update(tmp_path, keep=["readme"])


def test_what_was_removed_stays_away_and_what_is_dropped_stays_there(shipped, tmp_path):
    lab.init(tmp_path)
    (tmp_path / "README.md").unlink()
    shipped["README.md"] = b"two\n"
    del shipped["notebooks/tasks/t.py"]
    shipped["notebooks/tasks/u.py"] = b"NAME = 'u'\n"
    assert states_of(lab.update(tmp_path)) == {
        "README.md": "removed",
        "notebooks/tasks/t.py": "dropped",
        "notebooks/tasks/u.py": "new",
    }
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "notebooks" / "tasks" / "t.py").exists()
    assert states_of(lab.update(tmp_path)) == {"README.md": "removed"}


def test_a_link_or_a_folder_in_the_place_of_a_template_is_the_users(shipped, tmp_path):
    lab.init(tmp_path / "lab")
    mine = tmp_path / "mine.md"
    mine.write_bytes(b"one\n")  # as the template, yet not a file of the lab
    (tmp_path / "lab" / "README.md").unlink()
    (tmp_path / "lab" / "README.md").symlink_to(mine)
    shutil.rmtree(tmp_path / "lab" / "notebooks" / "tasks")
    (tmp_path / "lab" / "notebooks" / "tasks").write_text("a file")
    shipped |= {"README.md": b"two\n", "notebooks/tasks/t.py": b"NAME = 'newer'\n", "notebooks/tasks/u.py": b"u\n"}
    assert states_of(lab.update(tmp_path / "lab")) == {
        "README.md": "edited",
        "notebooks/tasks/t.py": "edited",
        "notebooks/tasks/u.py": "in the way",
    }
    assert mine.read_bytes() == b"one\n"
    assert (tmp_path / "lab" / "README.md").is_symlink()


def test_a_lab_is_asked_for_where_there_is_none(shipped, tmp_path):
    with pytest.raises(PrerequisiteError, match=r"is no lab: it has no arislab\.toml"):
        lab.update(tmp_path)


def test_a_checkout_of_arislab_is_left_to_git(shipped, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "arislab"\n')
    with pytest.raises(PrerequisiteError, match="is a checkout of arislab itself: git brings its notebooks up to date"):
        lab.update(tmp_path)


@pytest.mark.parametrize("of", [lab.changes, lab.update])
def test_an_older_arislab_takes_no_newer_template_back(of, shipped, tmp_path):
    lab.init(tmp_path)
    marker = tmp_path / "arislab.toml"
    marker.write_text('arislab = "99.1rc2"\n')
    shipped["README.md"] = b"older\n"
    with pytest.raises(PrerequisiteError, match=r"has templates of arislab 99\.1rc2, and .* Install 99\.1rc2 or newer"):
        of(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == b"one\n"
    for text in ('arislab = "0.0.1"', "arislab = 'of Ada'", "no toml", ""):
        marker.write_text(text)
        assert states_of(of(tmp_path)).get("README.md") in ("renewed", None), text
    assert (tmp_path / "README.md").read_bytes() == (b"one\n" if of is lab.changes else b"older\n")


def test_two_updates_of_one_second_set_aside_both(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(states.time, "strftime", lambda *_: "20261127T120000Z")
    lab.init(tmp_path)
    path, ran = tmp_path / "notebooks" / "2_curate.ipynb", [RAN, RAN.replace(b"hello", b"other")]
    for content, newer in zip(ran, (NOW, OLD), strict=True):
        path.write_bytes(content if newer == NOW else NOW.replace(b'"outputs": []', b'"outputs": [{}]'))
        ran_now = path.read_bytes()
        shipped["notebooks/2_curate.ipynb"] = newer
        assert states_of(lab.update(tmp_path)) == {"notebooks/2_curate.ipynb": "renewed"}
        assert ran_now in [p.read_bytes() for p in (tmp_path / ".arislab" / "replaced").rglob("*.ipynb")]
    assert len(list((tmp_path / ".arislab" / "replaced").rglob("*.ipynb"))) == 2


def test_a_folder_that_cannot_be_written_is_one_error(shipped, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrerequisiteError, match=r"cannot write to .*file.* \(.*\); give another folder"):
        lab.init(tmp_path / "file" / "lab")


@pytest.mark.parametrize("n", range(8))
def test_an_update_that_is_cut_off_goes_on_and_loses_nothing(n, shipped, tmp_path, monkeypatch):
    lab.init(tmp_path)
    (tmp_path / "notebooks" / "2_curate.ipynb").write_bytes(RAN)
    (tmp_path / "notebooks" / "tasks" / "t.py").write_text("mine\n")
    shipped |= {place: content + b"\n" for place, content in shipped.items() if place.endswith((".md", ".py"))}
    shipped["notebooks/2_curate.ipynb"] = NOW
    calls = iter([None] * n)

    def keep(path, content):
        if next(calls, 1) is not None:
            raise KeyboardInterrupt
        files_keep(path, content)

    files_keep = files.keep
    monkeypatch.setattr(files, "keep", keep)
    with contextlib.suppress(KeyboardInterrupt):
        lab.update(tmp_path)
    monkeypatch.setattr(files, "keep", files_keep)
    lab.update(tmp_path)
    assert states_of(lab.update(tmp_path)) == {"notebooks/tasks/t.py": "edited"}
    assert (tmp_path / "README.md").read_bytes() == b"one\n\n"
    assert (tmp_path / "notebooks" / "2_curate.ipynb").read_bytes() == NOW
    assert (tmp_path / "notebooks" / "tasks" / "t.py").read_text() == "mine\n"
    assert RAN in [path.read_bytes() for path in (tmp_path / ".arislab" / "replaced").rglob("*.ipynb")]


CONTENTS = [
    *(book(*sources, ids="x") for sources in (["a"], ["a", "b"], [])),
    *(book(*sources, outputs=[{}], ids="y") for sources in (["a"], ["a", "b"])),
    b"", b"{}", b"[]", b"\xff\xfe", b"text\n", b"text\r\n", b'{"cells": 7}',
]  # fmt: skip
PLACES = ["notebooks/2_curate.ipynb", "notebooks/tasks/t.py", "README.md"]
RELEASE = st.dictionaries(st.sampled_from(PLACES), st.sampled_from(CONTENTS))
EDITS = st.dictionaries(st.sampled_from(PLACES), st.sampled_from([*CONTENTS, None]))
"""What a user makes of a place; None: removes it."""


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(RELEASE, st.lists(st.tuples(EDITS, RELEASE, st.sets(st.sampled_from(PLACES))), min_size=1, max_size=4))
def test_no_release_writes_over_an_edit_and_every_untouched_file_is_the_newest(first, rounds):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder, release = Path(name) / "lab", dict(first)
        patch.setattr(templates, "shipped", lambda: dict(release))
        lab.init(folder)
        for edits, newer, keep in rounds:
            for place, content in edits.items():
                path = folder / place
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            before = {place: (folder / place).read_bytes() for place in PLACES if (folder / place).is_file()}
            kept = {place: states._kept(folder, place) for place in PLACES}
            release = dict(newer)
            done = {change.place: change for change in lab.update(folder, keep=keep & release.keys())}
            aside = [path.read_bytes() for path in (folder / ".arislab" / "replaced").rglob("*") if path.is_file()]
            for place in PLACES:
                now = (folder / place).read_bytes() if (folder / place).is_file() else None
                was, base, new = before.get(place), kept[place], release.get(place)
                if was is None:  # never there, or removed: added only where it never was
                    assert now == (new if base is None else None), place
                elif now != was:  # renewed: nobody had edited it, and what else it held is set aside
                    assert templates.is_same(place, was, base), place
                    assert now == new, place
                    assert was == base or was in aside, place
                elif new is not None and base is not None and templates.is_same(place, was, base):
                    assert templates.is_same(place, now, new), "an untouched file is the newest"
                if now is not None and new is not None and not templates.is_same(place, now, new):
                    assert done[place].state in ("edited", "in the way", "unchanged"), place
                    assert done[place].diff or done[place].state == "unchanged"
            again = {change.place: change.state for change in lab.update(folder)}
            assert set(again.values()) <= {"unchanged", "edited", "removed", "in the way"}
            assert {place for place, state in again.items() if state in ("edited", "in the way")}.isdisjoint(keep)
