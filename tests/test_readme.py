"""What README and guide say is so: their commands run, their tables match the tree, and README is one screen.

README makes the promises that a newcomer reads first; how each is kept stands in the guide (``test_guide.py`` looks at
its pages one by one).
"""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from toys import CHECKOUT, GUIDE, arislab, arislab_process

from arislab import __version__

README = (CHECKOUT / "README.md").read_text()
TOLD = "\n".join([README, *(page.read_text() for page in GUIDE)])


def commands(containing, text=TOLD):
    """The lines of the one block, of README and the guide, that contains a text, without comments."""
    (block,) = [b for b in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if containing in b]
    lines = block.replace("\\\n", "").splitlines()  # a command that goes on in the next line is one
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def test_it_is_one_screen_of_a_hundred_lines_and_columns():
    assert len(README.splitlines()) <= 100
    assert [line for line in README.splitlines() if len(line) > 100] == []


def test_it_has_one_picture_of_the_phases_in_their_order_and_a_sentence_for_each():
    from arislab.runs import PHASES

    (picture,) = re.findall(r"^```mermaid\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert re.findall(r"\b(\w+)\[\d \1\]", picture) == list(PHASES)[:5]
    assert re.findall(r"^\d\. \*\*(\w+)\*\* .+\.$", README, re.MULTILINE) == list(PHASES)[:5]
    beside = README.partition("5. **evaluate**")[2].partition("## ")[0]
    phases = {path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb") if not path.name[0].isdigit()}
    assert phases == set(re.findall(r"`(\w+)`", beside))


def test_it_says_in_six_rows_what_to_edit():
    (rows,) = re.findall(r"^\| to change \| edit \|\n\|---\|---\|\n((?:\|.*\|\n)+)", README, re.MULTILINE)
    assert len(rows.splitlines()) == 6


def test_it_leads_to_every_page_of_the_guide():
    named = set(re.findall(r"\]\(notebooks/guide/([\w-]+\.md)\)", README))
    assert named == {page.name for page in GUIDE} - {"rooms.md"}  # of those who change arislab: contribute leads there


PAGES = [
    *CHECKOUT.glob("*.md"),
    *(
        path
        for room in ("arislab", "data", "notebooks", "papermill_runs", "tests")
        for path in (CHECKOUT / room).rglob("*.md")
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_the_lines_of_a_page_fit_120_columns(page):
    assert [line for line in page.read_text().splitlines() if len(line) > 120] == []


def test_the_two_commands_are_what_ci_runs():
    install, test = commands("arislab demo", README)
    ci = (CHECKOUT / ".ci" / "run").read_text()
    assert install == 'pip install -e ".[train]" && arislab demo'
    assert test == 'pip install -e ".[test]" && pytest -m "not slow"'
    assert 'pip install -q -e ".[train]"' in ci
    assert "arislab demo" in ci
    assert 'pip install -q -e ".[test]"' in ci
    assert "\npytest -m slow\n" in ci
    assert ci.rstrip().endswith('\npytest -m "not slow"')


def test_the_commands_of_a_lab_are_what_ci_walks():
    build, install, make, renew = commands("arislab init my-lab")
    ci, walks, walk = ((CHECKOUT / ".ci" / name).read_text() for name in ("run", "walks", "walk"))
    assert build == "pip wheel --no-deps --wheel-dir dist ."
    assert "pip wheel -q --no-deps --wheel-dir dist ." in ci
    assert ".ci/walks dist/*.whl" in ci
    assert '.ci/walk "$1" "$python" "$versions"' in walks
    assert install == f'pip install "dist/arislab-{__version__}-py3-none-any.whl[train,lab]"'
    assert (make, renew) == ("arislab init my-lab", "arislab init --update my-lab")
    assert "\narislab init lab " in walk
    assert "\narislab init --update" in walk


@pytest.mark.slow
def test_the_commands_for_own_data_run_in_order(tmp_path):
    printed = []
    for line in commands("data/sample/candidates.jsonl"):
        words = shlex.split(line)
        assert words[0] == "arislab"
        assert words[-2] == "--root"
        printed.append(arislab_process(*words[1:-2], root=tmp_path / words[-1]))
    assert printed[0].startswith("60 candidates = 60 new")
    assert "40 requests = " in printed[1]
    assert "not in the lake" not in printed[1]
    assert printed[3].startswith("80 outputs = 80 ok")
    assert printed[-1].startswith("1,000 candidates = ")
    answers = json.loads(
        arislab("sql", "--format", "json", "select llm_output o from training_data_raw", root=tmp_path / "my")
    )
    assert sum('"recommendation"' in (a["o"] or "") or "'recommendation'" in (a["o"] or "") for a in answers) > 20


@pytest.mark.slow
def test_the_commands_on_records_run(tmp_path):
    root = tmp_path / "root"
    imported = commands("data/sample/candidates.jsonl")[3]
    arislab(*shlex.split(imported)[1:-2], root=root)
    arislab("run", "curate", "-p", "task", "instruction_following", root=root)
    (name,) = [p.name[-4:] for p in (root / "papermill_runs").glob("2*")]
    row = json.loads(arislab("sql", "--format", "json", "select id from training_data_curated limit 1", root=root))[0][
        "id"
    ]
    for line in commands("arislab runs --json"):
        words = [name if word == "3f9a" else row if word == "CUSTOM_ID" else word for word in shlex.split(line)]
        done = subprocess.run(
            [sys.executable, "-m", "arislab", *words[1:], "--root", str(root)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        if "evaluations" in line:
            assert "evaluations does not exist" in done.stderr  # nothing was evaluated in this root
        else:
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert (tmp_path / "again" / "data" / "lake" / "training_data_curated").is_dir()
    assert (tmp_path / "crate" / "ro-crate-metadata.json").is_file()


@pytest.mark.slow
def test_a_chat_server_behind_arislab_serve_answers_a_phase(tmp_path):
    """The block of the page on real models, with our echo engine in the place of vLLM."""
    _, _, serve, export, run = commands("vllm serve")
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "arislab", "serve", *arguments, "--parent-pid", str(os.getpid())]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        processes.append(process)
        return json.loads(process.stdout.readline())

    environment = dict(os.environ)
    try:
        chat = start("--data", str(tmp_path / "chat"), "--engine", "echo")
        environment["ARISLAB_UPSTREAM_API_KEY"] = (tmp_path / "chat" / "token").read_text().strip()
        words = shlex.split(serve)[2:]
        assert words[2] == "--port"
        words = ["--data", str(tmp_path / "front"), "--port", "0", "--upstream", chat["url"]]
        front = start(*words)
        assert export.startswith("export ARISLAB_API_KEY=$(cat ")
        key = (tmp_path / "front" / "token").read_text().strip()
        arguments = shlex.split(run.replace("http://127.0.0.1:8002/v1", front["url"]).replace("170000", "40"))
        arislab("candidates", "--n", 60, root=tmp_path / "root")  # a server of one's own is asked about no made-up ones
        arislab(*arguments[1:], "-p", "n_dry_run", 4, root=tmp_path / "root", ARISLAB_API_KEY=key)
        answers = json.loads(
            arislab(
                "sql",
                "--format",
                "json",
                "select status, input = llm_output same, count(*) n from training_data_raw group by all",
                root=tmp_path / "root",
            )
        )
        assert {(a["status"], a["same"]) for a in answers} == {("ok", True)}
        assert key not in "".join(p.read_text(errors="replace") for p in (tmp_path / "root").rglob("*") if p.is_file())
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)
            process.stdout.close()


def test_the_page_on_servers_names_options_limits_and_dialects_that_exist():
    from typer.main import get_command

    from arislab.batch import dialects
    from arislab.cli import main
    from arislab.server.limits import Limits

    page = (CHECKOUT / "arislab" / "server" / "README.md").read_text()
    groups = get_command(main.app).commands
    commands = [groups["serve"], groups["run"], *groups["batch"].commands.values()]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    theirs = {"--port", "--enable-lora", "--max-model-len", "--model-path", "--parallel"}  # of vLLM, SGLang, llama.cpp
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= known | theirs
    assert {dialects.dialect(name).name for name in re.findall(r"--dialect (\w+)", page)} == {
        "litellm",
        "llm_d",
        "control_layer",
    }
    limits = Limits()
    assert (limits.requests, limits.file_bytes, limits.line_bytes) == (50_000, 200_000_000, 8 << 20)
    assert "50,000; 200 MB; 8 MiB" in page
    assert (limits.window_s, limits.keep_s) == (24 * 3600, 30 * 86_400)


def test_the_phase_table_names_the_notebooks_that_are_there():
    named = re.findall(r"^\| \[\w+\]\(\.\./(\w+\.ipynb)\) \|", TOLD, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == {p.name for p in (CHECKOUT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:arislab|notebooks|data|tests|papermill_runs)/[\w./-]*)`", README)))
)
def test_every_path_it_names_is_there(path):
    ignored = path.startswith("papermill_runs/<")
    assert ignored or (CHECKOUT / path).exists()


def test_the_parameters_it_names_exist():
    from arislab.runs import PHASES, parameters_of

    pages = ("review_page.ipynb", "review_lead.ipynb")  # of arislab review
    known = {p for name in (*PHASES.values(), *pages) for p in parameters_of(CHECKOUT / "notebooks" / name)}
    assert set(re.findall(r"-p (\w+) ", TOLD)) - {"NAME", "goes"} <= known  # "-p goes before it" is the help's
    assert {"keep_fraction", "approve", "one_per", "n_arm_pairs", "logprobs"} <= set(re.findall(r"-p (\w+)", TOLD))


def test_its_figure_is_there_and_its_numbers_are_those_of_the_example_record():
    assert (CHECKOUT / "papermill_runs" / "example" / "demo.png").stat().st_size > 5_000
    record = json.loads((CHECKOUT / "papermill_runs" / "example" / "evaluate" / "run.json").read_text())
    rows = re.findall(r"^\| (\S+) \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \|", README, re.MULTILINE)
    assert len(rows) == 6
    for arm, *numbers in rows:
        interval = record["headline"][arm]
        assert [f"{interval[k]:.3f}" for k in ("mean", "low", "high")] == numbers, arm


def test_the_numbers_of_the_real_model_are_those_of_its_three_records():
    folder = CHECKOUT / "papermill_runs" / "example-real"
    assert (folder / "demo.png").stat().st_size > 5_000
    places = [folder / "evaluate", *(folder / f"seed-{n}" / "evaluate" for n in (2, 3))]
    seeds = [json.loads((place / "run.json").read_text())["headline"] for place in places]
    text = " ".join(README.split()).partition("Means of three seeds, ")[2]
    for arm in ("baseline", "icl", "control", "finetuned", "nearest"):
        mean = sum(seed[arm]["mean"] for seed in seeds) / 3
        assert re.search(rf" {arm} \{f'{mean:.3f}'[1:]}\b", text), (arm, mean)
    ends = [f"{end(seed['finetuned']['mean'] for seed in seeds):.3f}"[1:] for end in (min, max)]
    assert f"finetuned .410 ({ends[0]} to {ends[1]})" in text
    assert all(seed["finetuned - control"]["low"] > 0 for seed in seeds)
