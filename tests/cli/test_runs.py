"""``arislab runs``, ``rerun``, ``verify``, ``resume`` at the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toys import arislab_command, here, notebook, ran, shown_at

from arislab import runs
from arislab.__main__ import main
from arislab.records import find as records


@pytest.mark.slow
def test_the_command_says_equal_or_exits_with_3(project):
    root, _ = project
    run = ran(project, n=2)

    command = [sys.executable, "-m", "arislab", "verify", "curate", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "V0 equal" in done.stdout
    assert "V1 equal (5 code cells" in done.stdout
    assert not list((root / "papermill_runs" / ".reruns").iterdir())
    (Path(run["folder"]) / "task.py").write_text("SYSTEM = 'x'\n")
    done = here("verify", "curate", "--root", root, "--level", "0", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)[0]["findings"] == [
        {"level": "V0", "where": "task.py", "what": "was changed after the run"}
    ]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["verify", "rerun", "resume"])
def test_without_a_terminal_a_foreign_record_is_refused_with_exit_2_and_one_message(project, tmp_path, verb):
    root, books = project
    path = books / "2_curate.ipynb"
    path.write_text(path.read_text().replace("people.head(n)", "people.head(n / 0)"))
    runs.execute("curate", {"n": 2}, root=root, notebooks=books)
    done = here(verb, "curate", "--root", root, ARISLAB_HOME=str(tmp_path / "other"))
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert re.search(r"is not run: you have no key .*--trust", done.stderr, re.S)
    assert ("V0 equal" in done.stdout) == (verb == "verify")
    assert len(records.as_json(root)) == 1
    trusted = here(verb, "curate", "--trust", "--root", root, ARISLAB_HOME=str(tmp_path / "other"))
    assert trusted.returncode == {"verify": 0, "rerun": 0, "resume": 1}[verb], trusted


@pytest.mark.slow
def test_at_a_terminal_it_asks(project, tmp_path):
    import pty

    root, _ = project
    ran(project, n=2)
    command = [sys.executable, "-m", "arislab", "verify", "curate", "--root", str(root)]
    for answer, code, says in ((b"n\n", 2, "Run it?"), (b"y\n", 0, "V1 equal")):
        ours, theirs = pty.openpty()
        env = os.environ | {"ARISLAB_HOME": str(tmp_path / "other")}
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        os.write(ours, answer)
        shown = shown_at(ours)
        assert process.wait(timeout=120) == code, shown
        assert says in shown.decode()


def test_a_level_that_runs_nothing_needs_no_trust(project, tmp_path):
    root, _ = project
    run = ran(project, n=2)
    for options in (["--level", "0"], ["--against", run["folder"]]):
        done = here("verify", "curate", "--root", root, *options, ARISLAB_HOME=str(tmp_path / "other"))
        assert done.returncode == 0, done


def test_a_rerun_stays_in_its_folder_whatever_a_record_calls_itself(root):
    from arislab.cli.runs import _target

    folder = root / "papermill_runs" / "x"
    assert (
        _target({"run_id": "../../../evil", "folder": str(folder)}, None).parent == root / "papermill_runs" / ".reruns"
    )


def test_parameters_come_from_a_file_and_the_command_line_goes_before(root):
    book = notebook(root / "notebooks", "1")
    (root / "p.yaml").write_text("n: 5\nlabel: '007'\nnames: [a, b]\n")
    command = ["run", book / "2_curate.ipynb", "--root", root, "-f", root / "p.yaml"]
    done = here(*command, "-p", "n", "6")
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
        done = here(*command)
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


def test_a_run_that_failed_is_resumed_as_a_new_one_with_the_same_parameters(root):
    book = notebook(root / "notebooks", "from pathlib import Path\nassert Path('go').exists(), 'not yet'")
    runs.execute(str(book / "2_curate.ipynb"), {"n": 4, "label": "007"}, root=root)
    first = records.as_json(root)[0]
    assert first["status"] == "failed"
    (book / "go").touch()
    done = arislab_command(root, "resume", first["run_id"][-4:])
    assert done.returncode == 0, done
    new, old = records.as_json(root)
    assert (new["resumed_from"], old["run_id"]) == (first["run_id"], first["run_id"])
    assert new["parameters"] == old["parameters"]
    again = arislab_command(root, "resume", new["run_id"])
    assert (again.returncode, "only a run that ended without being ok" in again.stderr) == (2, True)


def test_the_command_makes_a_crate_or_says_what_it_needs(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARISLAB_ROOT", str(recorded))
    for more, code in ((["--ro-crate", str(tmp_path / "crate")], 0), ([], 2)):
        monkeypatch.setattr(sys, "argv", ["arislab", "runs", "export", "good", *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    output = capsys.readouterr()
    assert f"RO-Crate in {tmp_path / 'crate'}" in output.out
    assert output.err == "arislab: runs export needs --ro-crate DIR or --mlflow URI: what to write.\n"
