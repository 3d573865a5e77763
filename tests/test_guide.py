"""What the guide says is so: links lead somewhere, commands exist, blocks run, figures stand in records."""

import ast
import difflib
import gzip
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
from toys import CHECKOUT, GUIDE, NOTEBOOKS, arislab, need, play
from typer.main import get_command

from arislab import lab
from arislab.cli import listing, main
from arislab.lake import Lake
from arislab.runs import PHASES, parameters_of

FOLDER = CHECKOUT / "notebooks" / "guide"
README = CHECKOUT / "README.md"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
spec = importlib.util.spec_from_file_location("guide_pages", CHECKOUT / ".ci" / "guide_pages.py")
guide_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guide_pages)
WRITTEN = [page for page in GUIDE if page.name not in guide_pages.PAGES]
each = pytest.mark.parametrize("page", [README, *GUIDE], ids=lambda page: page.name)
each_written = pytest.mark.parametrize("page", [README, *WRITTEN], ids=lambda page: page.name)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text):
    """A page without its blocks of code, each of them an empty line."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


# ---- pages that are written from the code


@pytest.mark.parametrize("name", guide_pages.PAGES)
def test_a_page_that_is_read_from_the_code_says_what_the_code_says(name):
    now, there = guide_pages.PAGES[name](), (FOLDER / name).read_text()
    changes = list(difflib.unified_diff(there.splitlines(), now.splitlines(), name, "the code", lineterm="", n=0))
    assert changes == [], "python .ci/guide_pages.py writes it anew"


def test_those_pages_have_every_column_command_and_parameter():
    from arislab.lake.tables import TABLES

    tables, commands, values = (
        (FOLDER / f"{name}.md").read_text() for name in ("lake-tables", "command-line", "parameters")
    )
    for name, table in TABLES.items():
        part = tables.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert [column for column in table.columns if f"- `{column}` (" not in part] == [], name
    for words, command in guide_pages.verbs_of(get_command(main.app)):
        part = commands.partition(f"\n## {' '.join(['arislab', *words])}\n")[2].partition("\n## ")[0]
        assert part, words
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
        assert {
            option for option in options - {"--help"} if f"`{option}" not in part and f", {option}" not in part
        } == (set()), words
    for path in NOTEBOOKS:
        part = values.partition(f"\n## {path.stem}\n")[2].partition("\n## ")[0]
        assert [name for name in parameters_of(path) if f"- `{name}: " not in part] == [], path.name


# ---- links and anchors


def headings(text):
    return re.findall(r"^#+ (.+?)\s*$", prose(text), re.MULTILINE)


def anchors(text):
    """The names of a page's headings, as GitHub, Python-Markdown and JupyterLab make them: those in which all agree."""
    plain = [re.sub(r"`|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings(text)]
    github = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in plain}
    site = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}
    return github & site & {heading.replace(" ", "-") for heading in plain}


def links(text):
    return re.findall(r"!?\[[^]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "``", prose(text)))


@each
def test_every_link_and_anchor_of_a_page_leads_somewhere(page):
    for link in links(page.read_text()):
        assert not link.startswith(("http:", "https:", "/")), f"{link}: the pages are read without a network"
        place, _, anchor = link.partition("#")
        there = (page.parent / place).resolve() if place else page
        assert there.exists(), link
        if anchor:
            assert anchor in anchors(there.read_text()), link
        if page.parent == FOLDER:
            assert there.is_relative_to(FOLDER.parent), f"{link}: a lab has nothing above its notebooks"


def test_the_pages_lead_somewhere_in_a_lab_too(tmp_path):
    lab.init(tmp_path / "lab")
    pages = sorted((tmp_path / "lab" / "notebooks" / "guide").glob("*.md"))
    assert [page.name for page in pages] == [page.name for page in GUIDE]
    for page in pages:
        for link in links(page.read_text()):
            assert (page.parent / link.partition("#")[0]).exists(), (page.name, link)


def test_every_page_is_reached_from_the_first_and_has_a_place_in_the_site():
    assert {link.partition("#")[0] for link in links((FOLDER / "index.md").read_text())} >= {
        page.name for page in GUIDE
    } - {"index.md"}
    assert set(re.findall(r": ([\w-]+\.md)$", (CHECKOUT / ".ci" / "mkdocs.yml").read_text(), re.MULTILINE)) == {
        page.name for page in GUIDE
    }


@each_written
def test_every_path_that_a_page_names_is_there(page):
    named = re.findall(r"`((?:arislab|notebooks|data|tests|papermill_runs|\.ci)/[\w./-]*)`", page.read_text())
    made = {"data/lake", "data/batches", "data/models", "data/exports/finetuning_data.jsonl"}  # by runs
    assert [path for path in named if not (CHECKOUT / path).exists() and path.rstrip("/") not in made] == []


def test_the_table_of_phases_has_every_notebook_and_tables_that_exist():
    from arislab.lake.tables import TABLES

    text = (FOLDER / "index.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(\.\./(\w+)\.ipynb\) \| (.+?) \| (.+?) → (.+?) \|$", text, re.MULTILINE)
    assert [name for name, file, *_ in rows if name != file] == []
    assert {name for name, *_ in rows} == {path.stem for path in NOTEBOOKS}
    assert {table for *_, ins, outs in rows for table in f"{ins}, {outs}".split(", ")} <= {
        *TABLES,
        "outputs",
        "test split",
        "nothing",
    }


# ---- commands


def commands(text):
    """Every call of arislab in the shell blocks of a page and between its backticks, as words."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", "").splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]
    for line in [*lines, *(code for code in inline if code.startswith("arislab "))]:
        for part in re.split(r"&&|;", line.partition("  #")[0]):
            words = shlex.split(part) if part.strip() else []
            if words[:1] == ["arislab"]:
                yield words[1:]


def wrong(words):
    """What is no command, option or parameter in a call of arislab; empty if all of it exists."""
    command, path = get_command(main.app), []
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words[0]]
        path.append(words.pop(0))
    if not path:
        return [] if words[0] == "--help" else words[:1]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    if path == ["runs"]:
        options |= {option for action in listing._parser()._actions for option in action.option_strings}
    if path == ["lab"]:
        return []  # the rest is JupyterLab's
    if "--" in words:
        words = words[: words.index("--")]
    missing = [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]
    notebooks = {path.stem: path for path in NOTEBOOKS} | {
        name: CHECKOUT / "notebooks" / file for name, file in PHASES.items()
    }
    if path == ["run"] and words and words[0] in notebooks:
        known = parameters_of(notebooks[words[0]])
        names = [words[n + 1].partition("=")[0] for n, word in enumerate(words[:-1]) if word == "-p"]
        missing += [name for name in names if name not in known and name != "NAME"]
    elif path == ["run"] and words and words[0] != "PHASE" and not words[0].startswith("-"):
        missing.append(words[0])
    return missing


@each_written
def test_every_command_option_and_parameter_that_a_page_types_exists(page):
    calls = list(commands(page.read_text()))
    assert [(words, bad) for words in calls if (bad := wrong(list(words)))] == []


def test_a_command_that_is_not_there_is_found():
    assert wrong(["runn", "curate"]) == ["runn"]
    assert wrong(["run", "curat"]) == ["curat"]
    assert wrong(["run", "curate", "-p", "keep_fractoin", "0.1"]) == ["keep_fractoin"]
    assert wrong(["models", "show", "x", "--jsn"]) == ["--jsn"]
    assert wrong(["runs", "--where", "x", "-n", "3"]) == wrong(["lab", "--port", "8899"]) == []


@each_written
def test_every_shell_block_parses(page):
    for block in blocks(page.read_text(), "bash"):
        assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True).stderr == ""


def test_every_block_says_its_language_and_none_is_a_diagram_that_the_site_would_have_to_fetch():
    for page in GUIDE:
        opened = re.findall(r"^```(\w*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {"bash", "python"}, page.name


# ---- blocks that run


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A root with outputs that were imported and curated, and the sample data beside it."""
    root = tmp_path_factory.mktemp("curated")
    (root / "data").mkdir()
    shutil.copytree(CHECKOUT / "data" / "sample", root / "data" / "sample")
    columns = ["--input", "question", "--output", "answer", "--model", "model"]
    file = CHECKOUT / "data" / "sample" / "outputs.jsonl"
    arislab("import", file, "--as", "outputs", "--task", "instruction_following", *columns, root=root)
    arislab("run", "curate", "-p", "task", "instruction_following", root=root)
    for _ in range(3):  # so that there is a version 3 to read
        arislab("import", file, "--as", "outputs", "--task", "instruction_following", *columns, root=root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in [README, *WRITTEN] if blocks(page.read_text(), "python")], ids=lambda page: page.name
)
def test_the_python_of_a_page_runs(page, curated):
    code = "\n".join(blocks(page.read_text(), "python"))
    environment = {**os.environ, "ARISLAB_ROOT": str(curated), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment, cwd=curated
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_table_of_many_machines_is_what_its_block_prints():
    text = (FOLDER / "many-machines.md").read_text()
    (block,) = blocks(text, "python")
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    rows = done.stdout.splitlines()
    assert len(rows) == 5
    assert [row for row in rows if row not in text.splitlines()] == []


def test_the_task_file_of_the_guide_is_one(tmp_path):
    from arislab import scoring
    from arislab.task import load

    (code,) = [block for block in blocks((FOLDER / "own-data.md").read_text(), "python") if "SCORERS" in block]
    (tmp_path / "tickets.py").write_text(code)
    checked = scoring.check(load(str(tmp_path / "tickets.py")))
    assert dict(checked.select("kind", "quality").iter_rows()) == {"gold": 1.0, "bad": 0.0}


def test_the_names_that_a_task_file_may_have_are_those_that_are_read():
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (FOLDER / "own-data.md").read_text(), re.MULTILINE)
    source = (CHECKOUT / "arislab" / "task.py").read_text()
    names = [name for cell in named for name in re.findall(r"`(\w+)`", cell)]
    assert len(names) == 13
    assert [name for name in names if f'"{name}"' not in source] == []


def twenty_reviews(folder, monkeypatch):
    """Section 5: approve and reject by turns in review.ipynb; return the kept rows that were rejected."""
    with monkeypatch.context() as here:
        here.chdir(folder)
        here.setenv("ARISLAB_ROOT", str(folder))
        panel = play("review", folder, reviewer="Ada", task="mine", n_review=20)["panel"]
        kept, rejected = set(Lake()["training_data_curated"].read()["custom_id"]), []
        for turn in range(20):
            row = panel.current["custom_id"]
            rejected += [row] if turn % 2 and row in kept else []
            assert panel.reject(labels=["wrong facts"]) if turn % 2 else panel.approve()
        assert panel.current is None
    assert rejected
    return rejected


@pytest.mark.slow
def test_the_first_hour_works_as_it_is_typed_with_fewer_rows(tmp_path, monkeypatch):
    """Sections 3 to 7 in a lab, one block after the other; the reviewer is played by the panel's own Python."""
    text = (FOLDER / "first-hour.md").read_text().partition("## 3. ")[2]
    fewer = {"--n 940": "--n 340", "n_candidates 800": "n_candidates 300", "n_test 100": "n_test 30"}
    fewer |= {"n_search 60 -p n_holdout 40": "n_search 16 -p n_holdout 8", "budget 400": "budget 120"}
    fewer |= {"n_validation 50": "n_validation 10", "s7-000000": "$(cat one)"}
    for name in fewer:
        assert name in text, name
    lab.init(tmp_path / "my-lab")
    folder = tmp_path / "my-lab"
    environment = {name: value for name, value in os.environ.items() if name not in ("ARISLAB_ROOT", "ARISLAB_TASKS")}
    environment |= {"PYTHONPATH": str(CHECKOUT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    rejected: list[str] = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for name, small in fewer.items():
            block = block.replace(name, small)
        command = [sys.executable, "-c", block] if language == "python" else ["bash", "-ec", block]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        if "run curate" in block:
            query = "select candidate_id from training_data_curated limit 1"
            row = json.loads(arislab("sql", "--format", "json", query, root=folder))[0]
            (folder / "one").write_text(row["candidate_id"])
            assert re.search(rf"labels of people +{20 if rejected else 0}\n", done.stdout), done.stdout
            if not rejected:
                rejected = twenty_reviews(folder, monkeypatch)
        if "from evaluations" in block:
            assert all(arm in done.stdout for arm in ("baseline", "icl", "finetuned", "control", "nearest"))
    lake = Lake(folder / "data" / "lake")
    trained = lake["training_rows"].read()
    shown = set(lake["icl_trials"].read()["example_ids"].explode())
    approved = set(lake["training_data_curated"].read(where={"approved": True})["id"])
    assert approved & set(trained["id"]), "what people approved is learned"
    learned = set(
        trained.filter(model_path=lake["finetuning_runs"].read(where={"arm": "curated"})["model_path"][0])["id"]
    )
    assert not (learned | shown) & set(rejected), "what they rejected is neither learned nor shown"
    assert ": V2 equal" in done.stdout, "the same reviews were folded in again"


# ---- figures

LOG = (CHECKOUT / "papermill_runs" / "README.md").read_text()


def head(*places):
    return json.loads(CHECKOUT.joinpath("papermill_runs", *places, "run.json").read_text())["headline"]


def numbers(value):
    """Every number of a headline in the ways in which pages write it."""
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values()), set())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return set()
    return {f"{value:.{n}f}".replace("-", "").removeprefix("0") for n in (1, 2, 3)} | {f"{value:,}".lstrip("-")}


RECORDS = set().union(
    *(
        numbers(json.loads(path.read_text())["headline"])
        for path in (CHECKOUT / "papermill_runs").glob("example*/**/run.json")
    )
)
NAMES = {"1,095", "3.11", "0.1.0", "0.1.2", "2.5", "4.1", "0.30", "0.9", "0.05", "0.8", "1.0"}
"""Numbers with a point that are no measurement: the sample, versions, models, defaults, what a scorer must give."""


def figures(text):
    """The numbers of a page that are measured: with a point or a comma, outside of code."""
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", prose(text))
    found = re.findall(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d*\.\d+)(?![\w.]*\d)", plain)
    return [number.removeprefix("0") if number.startswith("0.") else number for number in found]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_figure_of_a_page_stands_in_a_record_or_in_the_lab_log(page):
    names = NAMES | {name.removeprefix("0") for name in NAMES}
    inside = set(re.findall(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d*\.\d+)", LOG))
    known = RECORDS | names | inside | {number.removeprefix("0") for number in inside}
    assert [number for number in figures(page.read_text()) if number not in known] == []


def test_the_table_of_the_case_study_is_that_of_its_three_records():
    text = (FOLDER / "case-study.md").read_text()
    rows = re.findall(r"^\| ([\w+ -]+?) \| (.+?) \| (.+?) \| (.+?) \| (\S+) \|$", text, re.MULTILINE)
    places = [("example-real",), ("example-real", "seed-2"), ("example-real", "seed-3")]
    seeds = [head(*place, "evaluate") for place in places]
    arms = [row for row in rows if row[0] in seeds[0]]
    assert len(arms) == 8
    for arm, *cells, mean in arms:
        for cell, seed in zip(cells, seeds, strict=True):
            at, low, high = (f"{seed[arm][end]:.3f}".removeprefix("0") for end in ("mean", "low", "high"))
            assert cell == f"{at} [{low}, {high}]", arm
        assert mean == f"{sum(seed[arm]['mean'] for seed in seeds) / 3:.3f}".removeprefix("0"), arm
    assert all(seed["finetuned - control"]["low"] > 0 and seed["verdict"] == "promote" for seed in seeds)


def test_what_the_case_study_says_of_each_phase_is_what_its_records_say():
    text = " ".join((FOLDER / "case-study.md").read_text().split())
    generate, curate, icl, train, evaluate = (
        head("example-real", phase) for phase in ("generate", "curate", "icl", "finetune", "evaluate")
    )

    def short(value, digits=3):
        return f"{value:.{digits}f}".replace("0.", ".", 1)

    def interval(value, sign=""):
        return f"{sign}{short(value['mean'])} [{short(value['low'])}, {short(value['high'])}]"

    states = generate["account"]["states"]
    assert f"{generate['n_requests']} sentences were asked" in text
    assert f"{states['ok']} ok and {states['truncated']} truncated" in text
    states = curate["account"]["states"]
    assert (
        f"{curate['account']['total']} outputs = {states['truncated']} truncated + {states['kept']} kept + "
        f"{states['below_the_cut']} below the cut"
    ) in text
    assert sum(states.values()) == states["truncated"] + states["kept"] + states["below_the_cut"]
    assert f"of all {short(curate['quality_all'])}, of the kept fifth {short(curate['quality_kept'])}" in text
    assert f"lies at {short(curate['threshold'])}, with {curate['n_tied_at_cut']} row tied" in text
    assert f"(*{curate['best_trivial']}*) gets {short(curate['quality_best_trivial'])}" in text
    assert f"{curate['n_approved']} approved" in text
    assert f"{icl['n_requests_search']} requests; the search reports {short(icl['search_score_optimistic'])}" in text
    assert f"fresh rows {short(icl['chosen']['mean'])}" in text
    assert f"{icl['selection_optimism_points']:.1f} points" in text
    assert f"{interval(icl['gain'], '+')} over none ({icl['gain']['n']} rows)" in text
    assert f"chosen − random examples is {interval(icl['gain_over_random'])}" in text
    assert f"on the {train['n_train']} kept rows" in text
    assert f"{train['train_seconds']:.0f} s on a CPU" in text
    means = [short(train[f"validation_{arm}"]["mean"]) for arm in ("baseline", "curated", "control")]
    assert "baseline {}, curated {}, control {}".format(*means) in text
    assert f"{interval(evaluate['icl+finetuned - finetuned'])} in seed 1" in text
    assert f"{evaluate['finetuned']['n']} test sentences of 68 ads, judged by `{evaluate['judged_by']}`" in text
    log = " ".join(LOG.split())
    for said in ("of five one interval is above 0", ".01 without a worked turn", ".36 with five", "quality .65"):
        assert said in log
    with gzip.open(CHECKOUT / "data" / "sample" / "skillspan.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    assert f"{len(rows):,} sentences of {len({row['ad'] for row in rows})} ads" in text


# ---- words


def terms():
    """What the glossary defines: its headings, and what its entries write in bold."""
    text = (FOLDER / "glossary.md").read_text()
    return {heading.lower() for heading in headings(text)} | {
        word.lower() for bold in re.findall(r"\*\*(.+?)\*\*", text) for word in re.split(r", ", bold)
    }


SPOKEN = {
    "account", "adapter", "alias", "arm", "auc", "base", "baseline", "canary", "candidate", "certificate",
    "champion", "contrast", "control", "cut", "disputed", "echo", "example", "fold", "gate", "gold", "group",
    "judge", "label", "leak", "lora", "near-duplicate", "optimism", "perplexity", "planted", "policy", "pool",
    "preference", "quality", "record", "registry", "reviewer", "sample", "scorer", "seed", "selection",
    "signal", "split", "stale", "stratum", "surrogate", "trial", "version",
}  # fmt: skip
"""Words of the field, and of ours, that a newcomer cannot know: where a first cell has one, the glossary has it."""
KNOWN = {
    "JSON",
    "CSV",
    "CPU",
    "GPU",
    "ID",
    "URL",
    "SQL",
    "HTTP",
    "API",
    "UTC",
    "USD",
    "LLM",
    "MB",
    "MIT",
    "CC",
    "BY",
    "NET",
}
"""Short forms that nobody who comes here has to look up, units, and names of licences and data."""


def first_cells():
    return {path.stem: nbformat.read(path, 4).cells[0].source for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_first_cell_leads_to_its_page_and_to_words_of_the_glossary(path):
    found = links(first_cells()[path.stem])
    assert {link for link in found if link.startswith("guide/") and "#" not in link}, path.stem
    assert [link for link in found if link.startswith("guide/glossary.md#")], path.stem
    for link in found:
        place, _, anchor = link.partition("#")
        assert anchor in {"", *anchors((path.parent / place).read_text())}, link


def test_every_word_of_the_glossary_is_linked_from_a_notebook():
    found = {link.partition("#")[2] for text in first_cells().values() for link in links(text) if "glossary" in link}
    glossary = (FOLDER / "glossary.md").read_text()
    assert found == anchors(glossary) - anchors(glossary.splitlines()[0])


def undefined(text, defined):
    """Words of the field and short forms in a text that a glossary does not define."""
    words = set(re.findall(r"[a-z]+(?:-[a-z]+)*", re.sub(r"`[^`]*`", " ", prose(text)).lower()))
    used = {term for term in SPOKEN for word in words if word in (term, f"{term}s", f"{term[:-1]}ies")}
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", prose(text))
    short = set(re.findall(r"\b(?:[A-Z]{2,}|[A-Z]+[a-z]+[A-Z]+|Q?LoRA|V[0-3])\b", plain)) - KNOWN
    # base model, approve policy, review
    return used - defined - {"base", "policy", "reviewer"} | {word for word in short if word.lower() not in defined}


def test_the_words_and_short_forms_of_the_first_cells_and_of_the_readme_are_in_the_glossary():
    for name, text in [*first_cells().items(), ("README", README.read_text())]:
        assert undefined(text, terms()) == set(), name


def test_a_word_that_the_glossary_does_not_define_is_found():
    text = "Two strata? The stratum of a canary is judged by AUC and by BLEU, and `gold` is code; canaries."
    assert undefined(text, terms()) == {"BLEU"}
    assert undefined(text, terms() - {"stratum", "auc", "canary"}) == {"stratum", "canary", "auc", "AUC", "BLEU"}
    of_all = {term: [n for n, cell in first_cells().items() if undefined(cell, terms() - {term})] for term in SPOKEN}
    assert len([term for term, names in of_all.items() if names]) > 20, "the first cells use them"


def test_every_word_of_the_brief_list_is_a_heading_of_its_own():
    named = {
        "arm",
        "account",
        "cut",
        "split",
        "group",
        "optimism",
        "certificate",
        "v0 to v3",
        "ro-crate",
        "openlineage",
    }
    assert named <= anchors_as_words((FOLDER / "glossary.md").read_text())
    glossary = headings((FOLDER / "glossary.md").read_text())[1:]
    assert glossary == sorted(glossary, key=str.casefold)


def anchors_as_words(text):
    return {anchor.replace("-", " ") for anchor in anchors(text)} | anchors(text)


def test_the_keys_of_the_review_page_are_those_of_the_panel():
    source = (CHECKOUT / "arislab" / "review" / "core.js").read_text()
    table = source.partition("const KEYS = {")[2].partition("};")[0]
    keys = set(re.findall(r"(?:^|[ ,{])\"?([a-z/?])\"?: ", table, re.MULTILINE))
    rows = re.findall(r"^\| (`.+?) \| ", (FOLDER / "review.md").read_text(), re.MULTILINE)
    told = {key for row in rows for key in re.findall(r"`([a-z/?])`", row)}
    assert keys - {"g"} == told - {"g"}
    assert "`g`" in (FOLDER / "review.md").read_text()


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    need("mkdocs", present=importlib.util.find_spec("material") is not None, why='pip install "arislab[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ".ci/mkdocs.yml", "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    assert {page.stem for page in site.glob("*.html")} == {page.stem for page in GUIDE} | {"404"}
    for page in site.glob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", page.read_text())
        assert [place for place in loaded if re.match(r"(?:https?:)?//", place)] == [], page.name
    assert (site / "beside" / "2_curate.ipynb").read_bytes() == (FOLDER.parent / "2_curate.ipynb").read_bytes()


@pytest.mark.slow
@pytest.mark.browser
def test_pages_open_in_light_and_dark_and_ask_no_other_machine(site):
    need("browser", present=CHROMIUM is not None, why="there is no Chromium")
    need("browser", present=importlib.util.find_spec("playwright") is not None, why="playwright is not installed")
    from playwright.sync_api import sync_playwright

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-first-run", "--disable-sync"]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base, asked, failed = f"http://127.0.0.1:{server.server_port}/", [], []
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        for scheme, shown in (("light", "default"), ("dark", "slate")):
            page = browser.new_context(color_scheme=scheme).new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: failed.append(str(error)))
            for name in ("case-study", "glossary"):
                page.goto(f"{base}{name}.html", wait_until="networkidle")
                assert page.get_attribute("body", "data-md-color-scheme") == shown
                assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        browser.close()
        server.shutdown()
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((base, "data:", "blob:"))] == []
    assert failed == []


def test_arislab_itself_does_not_need_the_generator():
    for path in (CHECKOUT / "arislab").rglob("*.py"):
        names = [
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        ]
        assert not {"mkdocs", "material"} & set(names), path
