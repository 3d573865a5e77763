"""``arislab doctor`` says what is installed and what answers, beside how the lake stands."""

import json
import os
import subprocess
import sys

import pytest
from toys import CHECKOUT, here, people

from arislab.cli import doctor
from arislab.system import environment


def test_it_says_versions_extras_gpu_root_and_the_lake(lake, root, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    lake["candidates"].append(people(3))
    done = here("doctor", "--root", root)
    assert done.returncode == 0, done
    first = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"versions", "GPU", "extra", "server", "root", "candidates:"} == set(first) - {"not", "pip", "peft", "trl"}
    assert f"python {sys.version.split()[0]}, arislab 0.1.0, polars " in done.stdout
    assert done.stdout.splitlines()[-1] == "candidates: whole, version 0, 3 rows"
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("root")) <= 120


def test_as_json_it_is_one_object(lake, root, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    lake["candidates"].append(people(3))
    said = json.loads(here("doctor", "--json", "--root", root).stdout)
    assert said.keys() == {"versions", "extras", "gpus", "root", "servers", "done", "tables"}
    assert said["versions"].keys() == {"python", *environment.PACKAGES}
    assert said["extras"]["train"].keys() == {"is_complete", "missing"}
    assert [(table["table"], table["rows"], table["is_well"]) for table in said["tables"]] == [("candidates", 3, True)]
    assert said["root"] == str(root)


def test_what_mends_a_lake_says_nothing_of_the_machine(lake, root):
    lake["candidates"].append(people(3))
    done = here("doctor", "--repair", "--root", root)
    assert done.stdout == "candidates: whole, version 0, 3 rows\n"
    done = here("doctor", "--back", "candidates", "--root", root)
    assert (done.returncode, "must be TABLE@VERSION" in done.stderr) == (2, True)


def _found(**changes):
    found = {
        "versions": {"python": "3.11", "torch": "2.13+cpu", "vllm": None},
        "extras": {"lab": {"is_complete": False, "missing": ["voila>=0.5.8", "nbstripout>=0.8"]}},
        "gpus": [],
        "root": None,
        "servers": [],
    }
    return found | changes


def test_what_is_missing_has_its_pip_line_and_a_server_its_models():
    lines = doctor._lines(_found())
    assert lines == [
        "versions  python 3.11, torch 2.13+cpu",
        "          not installed: vllm",
        "GPU       none that nvidia-smi names; torch is a build for CPUs",
        "extra     lab     lacks voila>=0.5.8 and 1 more; for JupyterLab and review in a browser",
        '                  pip install "arislab[lab]"',
        "server    none runs; the embedded one starts with a phase, OPENAI_BASE_URL would name another",
        "root      none: this is no lab",
    ]
    servers = [{"base_url": "http://h/v1", "models": list("abcde"), "error": None}]
    servers += [{"base_url": "http://g/v1", "models": None, "error": "it answers with 401"}]
    lines = doctor._lines(_found(servers=servers, gpus=["NVIDIA H200, 143771 MiB, 550.0"]))
    assert "GPU       NVIDIA H200, 143771 MiB, 550.0" in lines
    assert "server    http://h/v1 answers: a, b, c, d …" in lines
    assert "server    http://g/v1 it answers with 401" in lines


def test_it_imports_nothing_heavy_to_find_out(root):
    code = "import contextlib, sys\nfrom arislab.__main__ import main\nwith contextlib.suppress(SystemExit): main()\n"
    code += "print([m for m in ('torch', 'transformers', 'pandas', 'jupyterlab', 'papermill') if m in sys.modules])"
    command = [sys.executable, "-c", code, "doctor", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_verbs_and_options(shell):
    def completed(words):
        asked = {"bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}, "zsh": {}}[shell]
        env = {**os.environ, "_ARISLAB_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, **asked}
        code = "import sys; sys.argv = ['arislab']; from arislab.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
        return done.stdout

    verbs = completed("arislab re")
    assert all(verb in verbs for verb in ("review", "rerun", "resume", "retire"))
    assert "doctor" not in verbs
    assert "--repair" in completed("arislab doctor --r")


def test_the_help_says_how_to_switch_completion_on():
    shown = here("--help").stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown
