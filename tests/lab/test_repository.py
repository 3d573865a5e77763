"""A lab is a git repository of its own: its commit stands in records, and outputs of notebooks do not go into it."""

import json
import subprocess

import pytest
from typer.testing import CliRunner

from arislab import lab
from arislab.cli.main import app
from arislab.lab import repository, templates
from arislab.runs import provenance


@pytest.fixture
def named(monkeypatch, tmp_path):
    """A user whom git knows, and nothing of the configuration of this machine."""
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n[commit]\n\tgpgsign = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return config


def said_by_git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()


PLACES = list(templates.shipped())


@pytest.fixture
def folder(tmp_path):
    lab.init(tmp_path / "lab")
    return tmp_path / "lab"


@pytest.mark.slow
def test_a_new_lab_is_committed_and_records_name_that_commit(named, folder):
    lines = repository.begin(folder, PLACES)
    head = said_by_git(folder, "rev-parse", "HEAD")
    assert lines[-1] == f"first commit {said_by_git(folder, 'rev-parse', '--short', 'HEAD')}: " + (
        "records name the commit that they ran from"
    )
    assert said_by_git(folder, "status", "--porcelain") == ""
    code, diff = provenance.code(folder / "notebooks")
    assert (code["commit"], code["dirty"], code["checkout"], diff) == (head, False, str(folder), b"")
    assert provenance.package().keys() == {"package_version", "package_sha256"}


@pytest.mark.slow
def test_outputs_stay_in_the_file_and_out_of_the_commit(named, folder):
    repository.begin(folder, PLACES)
    path = folder / "notebooks" / "2_curate.ipynb"
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["a private answer\n"]}]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    assert said_by_git(folder, "diff", "HEAD", "--stat") == ""
    cell["source"] = ["keep_fraction: float = 0.5\n"]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    said_by_git(folder, "commit", "-qam", "mine", "--no-gpg-sign")
    committed = said_by_git(folder, "show", "HEAD:notebooks/2_curate.ipynb")
    assert "keep_fraction: float = 0.5" in committed
    assert "a private answer" not in committed
    assert "a private answer" in path.read_text()
    ids = [cell["id"] for cell in json.loads(committed)["cells"]]
    assert ids == [cell["id"] for cell in notebook["cells"]], "records name cells by their ids"


@pytest.mark.slow
def test_without_a_user_nothing_is_committed_and_the_way_is_said(named, folder):
    named.write_text("")
    assert repository.begin(folder, PLACES)[-1].startswith(
        "nothing is committed, as git knows no user.email: git add -A"
    )
    code, _ = provenance.code(folder)
    assert (code["commit"], code["checkout"]) == (None, str(folder))


@pytest.mark.slow
def test_what_a_folder_held_before_it_became_a_lab_is_not_committed(named, tmp_path):
    folder = tmp_path / "study"
    (folder / "notebooks").mkdir(parents=True)
    mine = {"key.env": "OPENAI_API_KEY=sk-1\n", "notebooks/old.ipynb": "{}", "README.md": "my study\n"}
    for place, text in mine.items():
        (folder / place).write_text(text)
    shown = CliRunner().invoke(app, ["init", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "not committed: 3 that were here before, such as README.md; git add what belongs here" in shown.output
    of_arislab = {place for place in PLACES if place not in mine}
    kept = {f".arislab/templates/{place}.orig" for place in of_arislab}
    assert set(said_by_git(folder, "ls-files").splitlines()) == {"arislab.toml", *of_arislab, *kept}
    untracked = said_by_git(folder, "status", "--porcelain").splitlines()
    assert {line.removeprefix("?? ") for line in untracked} == mine.keys()
    assert {place: (folder / place).read_text() for place in mine} == mine


def test_a_lab_inside_of_a_repository_makes_none(named, tmp_path):
    said_by_git(tmp_path, "init", "-q")
    lab.init(tmp_path / "lab")
    (line,) = repository.begin(tmp_path / "lab", PLACES)
    assert line.startswith(f"this is part of the repository {tmp_path}: ")
    assert not (tmp_path / "lab" / ".git").exists()


def test_without_git_or_nbstripout_it_is_a_lab_all_the_same(named, folder, monkeypatch):
    monkeypatch.setattr(repository, "find_spec", lambda name: None)
    lines = repository.begin(folder, PLACES)
    assert lines[0].startswith("nbstripout is not installed: commits hold outputs")
    assert lines[-1].startswith("first commit ")
    monkeypatch.setenv("PATH", "")
    assert repository.begin(folder, PLACES) == ["git is not installed: records of this lab name no commit"]
    assert provenance.code(folder)[0]["commit"] is None
