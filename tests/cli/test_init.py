"""``arislab init``: a lab in which every command works, from any folder in it."""

import json
import os
import subprocess
import sys

import pytest
from toys import CHECKOUT
from typer.testing import CliRunner

from arislab.cli.main import app
from arislab.lab import templates
from arislab.system import paths

SHIPPED = templates.shipped()


def command(*words, cwd, **env):
    """The command in a process of its own, without a root from the environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ARISLAB_R") and k != "ARISLAB_TASKS"}
    return subprocess.run(
        [sys.executable, "-m", "arislab", *map(str, words)],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(CHECKOUT)} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_templates_are_the_notebooks_tasks_and_samples_of_the_checkout():
    assert {"README.md", ".gitignore", ".gitattributes", "data/prices.toml", "data/sample/outputs.jsonl"} < set(SHIPPED)
    notebooks = {path.name for path in (CHECKOUT / "notebooks").glob("*.ipynb")}
    assert {place.rpartition("/")[2] for place in SHIPPED if place.endswith(".ipynb")} == notebooks
    # what a task shows stands beside it: a lab without it could not run its demo
    tasks = {path.name for path in (CHECKOUT / "notebooks" / "tasks").iterdir() if path.is_file()}
    assert {place.rpartition("/")[2] for place in SHIPPED if place.startswith("notebooks/tasks/")} == tasks
    guide = {path.name for path in (CHECKOUT / "notebooks" / "guide").iterdir() if path.is_file()}
    assert {place.rpartition("/")[2] for place in SHIPPED if place.startswith("notebooks/guide/")} == guide
    assert SHIPPED["notebooks/2_curate.ipynb"] == (CHECKOUT / "notebooks" / "2_curate.ipynb").read_bytes()


@pytest.mark.slow
def test_a_lab_is_the_root_of_what_is_done_below_it_with_its_own_notebooks_and_tasks(tmp_path):
    made = command("init", "a lab", "--no-git", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    assert f"a lab is a lab of arislab 0.1.0: {len(SHIPPED)} files" in made.stdout
    lab = tmp_path / "a lab"
    mine = lab / "notebooks" / "tasks" / "mine.py"
    mine.write_bytes(SHIPPED["notebooks/tasks/instruction_following.py"])
    below = lab / "notebooks" / "tasks"
    read = command(
        *("import", "../../data/sample/outputs.jsonl", "--as", "outputs", "--task", "mine"),
        *("--input", "question", "--output", "answer", "--model", "model"),
        cwd=below,
    )
    assert read.returncode == 0, read.stderr
    notebook = lab / "notebooks" / "2_curate.ipynb"
    notebook.write_text(notebook.read_text().replace("# ties", "# ties of mine"))
    ran = command("run", "curate", "-p", "task", "mine", "-p", "keep_fraction", "0.5", cwd=below)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    (folder,) = [path for path in (lab / "papermill_runs").iterdir() if path.name[0].isdigit()]
    record = json.loads((folder / "run.json").read_text())
    assert record["root"] == str(lab)
    assert record["notebook"]["path"] == str(notebook)
    assert record["task"]["path"] == str(mine)
    assert record["code"]["package_version"] == "0.1.0"
    true = command("verify", "curate", cwd=below)
    assert true.returncode == 0, true.stderr + true.stdout
    assert ": V1 equal (" in true.stdout


def test_update_says_what_it_did_in_words(tmp_path):
    lab = tmp_path / "lab"
    assert command("init", lab, "--no-git", cwd=tmp_path).returncode == 0
    (lab / "notebooks" / "1_generate.ipynb").unlink()
    done = command("init", "--update", "--dry-run", cwd=lab / "notebooks")
    assert done.returncode == 0, done.stderr
    assert "removed    notebooks/1_generate.ipynb: removed here, and not added again" in done.stdout
    assert f"{lab}: {len(SHIPPED) - 1} unchanged, 1 removed (nothing was changed)" in done.stdout
    kept = command("init", "--update", "--keep", "README.txt", cwd=lab)
    assert kept.returncode == 2
    assert "arislab: --keep 'README.txt' is no template of a lab" in kept.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("init",), "init needs DIR"),
        (("init", "x", "--dry-run"), "--keep and --dry-run go with --update"),
        (("init", "--update", "."), "is no lab: it has no arislab.toml; `arislab init"),
        (("runs",), "there is no lab around"),
        (("sql", "select 1"), "`arislab init DIR` makes one"),
    ],
)
def test_outside_of_a_lab_each_command_says_how_to_get_one(words, message, tmp_path):
    # as installed from a wheel: the package does not lie in a checkout
    code = "import sys; from arislab.system import paths; paths._PACKAGE = paths.Path('/nowhere/arislab'); "
    code += f"sys.argv = ['arislab', *{list(words)!r}]; from arislab.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_root_that_is_a_lab_brings_its_notebooks_and_any_other_those_of_the_lab_around(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name / "notebooks" / "tasks").mkdir(parents=True)
        (tmp_path / name / paths.MARKER).touch()
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "one" / "notebooks")
    monkeypatch.delenv("ARISLAB_ROOT", raising=False)
    assert paths.root() == tmp_path / "one"
    assert paths.notebooks() == tmp_path / "one" / "notebooks"
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / "two"))
    assert paths.notebooks() == tmp_path / "two" / "notebooks"
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / "plain"))
    assert paths.notebooks() == tmp_path / "one" / "notebooks"
    monkeypatch.chdir(tmp_path / "plain")
    assert paths.notebooks() == CHECKOUT / "notebooks"


def test_jupyterlab_shows_a_lab_that_is_its_own_root_as_it_is(tmp_path, monkeypatch):
    command("init", tmp_path / "lab", "--no-git", cwd=tmp_path)
    started = []
    monkeypatch.setattr("arislab.cli.lab.os.execv", lambda *given: started.append(given))
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / "lab"))
    monkeypatch.chdir(tmp_path / "lab" / "notebooks")
    assert CliRunner().invoke(app, ["lab", "--no-browser"]).exit_code == 0
    ((_, words),) = started
    assert f"--ServerApp.root_dir={tmp_path / 'lab'}" in words
    assert "--FileContentsManager.preferred_dir=notebooks" in words


def test_help_lists_the_verbs_by_their_work_a_line_each():
    shown = command("--help", cwd=CHECKOUT, COLUMNS="80").stdout
    panels = [line.split("─ ")[1].split(" ")[0] for line in shown.splitlines() if line.startswith("╭─ ")]
    assert panels == ["Options", "Lab", "Phases", "Data", "Records", "Models", "Server"]
    _, _, listed = shown.partition("╭─ Lab ")
    lines = [line for line in listed.splitlines() if line.startswith("│ ")]
    verbs = [line.split()[1] for line in lines]
    assert verbs == [
        *(
            "init",
            "demo",
            "lab",
            "review",
            "run",
            "resume",
            "import",
            "candidates",
            "check",
            "sql",
            "lineage",
            "export",
            "forget",
            "doctor",
        ),
        *("runs", "verify", "rerun", "models", "promote", "rollback", "retire", "serve", "batch"),
    ], "no verb needs a second line"
    assert all(line.rstrip("│ ").endswith((".", ").")) for line in lines)
