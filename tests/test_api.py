"""The signatures that users type, pinned: a change here is a change for every notebook out there."""

import ast
import contextlib
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toys import CHECKOUT, GUIDE

import arislab
from arislab import (
    batch,
    curate,
    deploying,
    evaluate,
    finetune,
    icl,
    models,
    pairwise,
    plots,
    preferences,
    ranges,
    review,
    runs,
    scoring,
    stats,
    structured,
    task,
    trivial,
    trying,
)
from arislab.icl import rounds
from arislab.lake import Lake, Table, conditions, opening, writing
from arislab.review import adjudication, agreement, certificates, estimates, seats, sessions
from arislab.system import spilled

PINNED = {
    Lake.__init__: "self path run_id root",
    Lake.sql: "self query",
    Lake.lineage: "self custom_id",
    Lake.collect: "self",
    Table.read: "self columns where version as_",
    Table.head: "self n where columns",
    Table.append: "self frame run_id",
    Table.upsert: "self frame on run_id",
    Table.extend: "self choose run_id",
    Table.replace: "self frame where run_id",
    Table.latest: "self where",
    task.load: "name",
    batch.build_requests: "candidates to_messages model temperature max_tokens samples seed pair_by_candidate "
    "system_role parameters",
    batch.preview: "requests n",
    batch.Recorded.__init__: "self frame write key",
    batch.states: "requests recorded",
    batch.unanswered: "states",
    batch.run_row: "requests states run_id task batch_ids parameters",
    ranges.check_all: "names",
    structured.shape: "schema server model chat_template_kwargs system_role",
    batch.read_requests: "path",
    batch.reuse_finished: "requests recorded",
    batch.plan: "requests server folder answered resend max_lines max_bytes estimate",
    batch.status: "folder server",
    batch.cancel: "folder server batch_ids",
    batch.collect: "folder server",
    batch.connect: "base_url folder adapters model_path dialect",
    batch.isolation: "server models again",
    batch.dry_run: "requests server folder recorded task n seed usd_per_million",
    batch.submit: "requests server folder answered resend max_lines max_bytes window attempts budget usd_per_million",
    batch.Job.wait: "self poll_s",
    batch.Job.collect: "self",
    batch.Job.account: "self",
    batch.Job.cancel: "self",
    batch.simulate: "n_requests upstreams slots median_s spread tokens_per_s tokens limit_per_s refuse_fraction "
    "retry_after_s fail_fraction server_ms client_ms crash_after_s down_s usd_per_million usd_per_gpu_hour seed",
    batch.answer: "requests server folder recorded task resend budget",
    scoring.rows: "raw candidates task",
    scoring.score: "frame task max_failures timeout_s n_workers engine",
    scoring.check: "task",
    scoring.failing: "frame task kept timeout_s",
    trying.tried: "task lake asks repair timeout_s",
    curate.keep_top: "frame fraction by seed id quota max_share one_per",
    curate.keep_above: "frame threshold by one_per id seed",
    curate.keep_diverse: "frame fraction diversity by seed id quota max_share one_per on embed",
    curate.cost: "cut plain on embed seed",
    curate.stability: "cut keep scored without labels came groups seed n",
    curate.embedder: "model folder",
    curate.near_duplicates: "frame on threshold prefer id seed questions by_meaning embed engine",
    curate.examples: "kept candidates task",
    curate.approved: "curated reviews approve certified",
    curate.draw: "answers candidates curated heldout n seed rule",
    curate.control: "raw candidates task n seed",
    curate.keep: "frame rule fraction threshold precision labels chances seed quota max_share diversity embed groups",
    curate.labelled: "rows judged reviews",
    curate.learn: "labels scored groups seed",
    curate.estimates: "frame labels chances by",
    curate.curve: "frame labels chances seed shares",
    curate.described: "scored texts candidates task",
    curate.held: "described selection",
    curate.within: "rows selection scored texts candidates task",
    curate.earlier: "scored compare_with now",
    curate.Explorer.__init__: "self scored by group fraction threshold selection seed task given labels before show",
    curate.with_approved: "cut ids",
    curate.changed: "cut by_rules keep",
    curate.newest: "scored task",
    curate.drawable: "scored curated",
    curate.showing: "scored raw candidates curated task",
    curate.states: "recorded train marked cut",
    curate.to_look_at: "candidates n",
    review.fold: "curated reviews",
    review.queue: "rows reviews n seed below show",
    review.picked: "rows",
    review.Journal.__init__: "self folder reviewer form",
    review.Panel.__init__: "self queue reviewer decide reviews labels schema guide backend dwell_s lake",
    review.QueueDesk.__init__: "self queue reviews folder store name",
    review.QueueDesk.take: "self reviewer n",
    review.QueueDesk.decide: "self events reviewer",
    review.QueueDesk.counts: "self reviewer",
    sessions.start: "folder queue settings gold",
    sessions.is_started: "folder",
    sessions.Session.__init__: "self folder reviewer reviews clock",
    sessions.Session.take: "self reviewer n",
    sessions.Session.decide: "self events reviewer",
    sessions.Session.trail: "self reviewer",
    sessions.Session.row: "self custom_id queue",
    sessions.Session.counts: "self reviewer",
    seats.prepare: "folder names lead port",
    seats.visitor: "folder default",
    adjudication.disputed: "curated reviews reviewer",
    adjudication.Adjudication.__init__: "self rows reviewer decide reviews",
    curate.known: "task",
    agreement.opinions: "reviews",
    agreement.coefficients: "reviews of scale rows by level seed n_boot",
    agreement.repeats: "reviews level seed n_boot",
    agreement.accuracy: "reviews gold level",
    agreement.drift: "reviews every gold level",
    agreement.seconds: "reviews",
    agreement.speed: "reviews level seed",
    estimates.approve_rate: "rows reviews by level",
    estimates.time_left: "reviews n_left reviewer last level seed n_boot",
    estimates.labels_for: "rows reviews half_width level seed",
    certificates.fix: "rows reviews earlier stratum actor promise confidence looks seed reason",
    certificates.sample: "certificates rows curated certificate look",
    certificates.verdict: "certificates rows reviews certificate",
    certificates.issue: "certificates rows reviews certificate actor reason",
    certificates.withdraw: "certificates rows reviews certificate actor reason",
    certificates.overview: "certificates rows reviews",
    curate.in_force: "certificates rows",
    certificates.applied: "curated reviews certified",
    icl.ask: "cells arms candidates server folder recorded searched task purpose",
    icl.Asker.__init__: "self texts candidates model parameters server folder recorded searched task",
    icl.Asker.__call__: "self cells purpose",
    icl.Asker.requests: "self example_ids candidates",
    icl.Asker.drawn: "self rows sizes",
    icl.Asker.report: "self arms search_id",
    icl.texts: "examples",
    icl.turns: "examples ids",
    icl.n_report: "n_rows n_sizes n_nearest by_meaning",
    icl.optimism: "search means",
    icl.set_row: "search means comparison task model parameters facts",
    icl.plan: "k budget n_validation",
    icl.cost: "plans drawn n_report raw cells task usd_per_million",
    curate.pool: "examples n use_case column pinned banned one_per seed",
    curate.serves: "candidates use_case column",
    icl.search: "pool validation k budget ask seed method rounds known pinned banned one_per label",
    rounds.plan: "budget n_validation method",
    icl.requested: "cells arms task scorer_version purpose",
    icl.answered: "manifest scores",
    icl.holdout_uses: "cells rows people search_id",
    icl.reference_sets: "pool questions chosen k seed n_random n_nearest others embed",
    icl.nearest: "pool questions k embed",
    icl.embedder: "server model",
    evaluate.arms: "people task models parameters",
    evaluate.custom_ids: "arms",
    evaluate.ask: "arms candidates server folder recorded task report stored",
    evaluate.intervals: "frame",
    evaluate.per_seed: "arm trained",
    evaluate.over_seeds: "scores",
    evaluate.spread: "scores by",
    finetune.names: "trained",
    finetune.of_seeds: "trained arm n",
    evaluate.find_leaks: "people everybody curated task recorded threshold control",
    evaluate.leaks: "test used threshold everybody",
    models.register: "trained known",
    models.promote: "models tuned gate",
    models.gate: "comparison arm baseline margin free people checks",
    models.checks: "comparison arm rates costs forgetting baseline icl icl_margin rate_margin forgetting_margin",
    models.Registry.__init__: "self lake actor",
    models.Registry.register: "self trained",
    models.Registry.judge: "self version gate evaluation",
    models.Registry.promote: "self version alias reason is_forced expected",
    models.Registry.roll_back: "self name alias reason",
    models.Registry.retire: "self version reason",
    models.Registry.check: "self version base",
    deploying.canary: "requests answers",
    deploying.verdict: "compared version min_equal",
    deploying.switch: "server alias version expected registered note drain_s",
    evaluate.rates: "scores people task",
    evaluate.costs: "scores",
    evaluate.costs_in_words: "scores",
    evaluate.timed: "scores arms server among n within_s",
    evaluate.forgetting: "task models server folder recorded parameters",
    pairwise.check: "arms among n gate_by",
    pairwise.pairs: "scores people task arms n n_people seed",
    pairwise.samples: "raw candidates task n n_people seed",
    pairwise.Desk.__init__: "self pairs votes folder store name clock",
    pairwise.Desk.take: "self reviewer n",
    pairwise.Desk.decide: "self events reviewer",
    pairwise.Desk.counts: "self reviewer",
    pairwise.counting: "pairs votes",
    pairwise.win_rate: "pairs votes seed",
    pairwise.preferred: "pairs votes",
    preferences.mined: "judged raw candidates task reviews compared",
    preferences.by_judge: "judge rows candidates task",
    preferences.withdrawn: "pairs reviews votes",
    preferences.edit_patterns: "judged least",
    preferences.write_jsonl: "pairs path",
    trivial.scores: "questions candidates task examples report n",
    trivial.contrasts: "free arm",
    trivial.beside: "free answered scale",
    curate.spread: "candidates n",
    curate.hold_out: "examples fraction seed least",
    curate.control_in_words: "raw rule",
    curate.plain: "raw",
    curate.rounds: "raw",
    icl.of_file: "path",
    icl.Shown.__init__: "self name turns",
    icl.Shown.over: "self to_messages",
    icl.Shown.marking: "self write requests plain",
    evaluate.summary: "scores by groups",
    evaluate.table: "means comparison beside level people",
    evaluate.by_category: "scores people task contrast by n_most seed",
    stats.compare: "scores baseline contrasts level seed n_boot by groups",
    stats.paired_difference: "a b level seed n_boot groups",
    stats.verdicts: "comparison level power",
    runs.execute: "phase given root notebooks echo tell given_from wait timeout_s cell_timeout_s resumed_from",
    runs.account: "total label states",
    runs.headline: "account numbers",
    plots.quality_distribution: "frame threshold by ax",
    finetune.check: "settings arms named",
    finetune.settle: "trained settings",
    finetune.train: "sets validation settings workers seeds named",
    finetune.prefer: "preferences validation settings start loss beta learning_rate control least workers seeds named",
    finetune.told_apart: "trained",
    finetune.preference_rows: "trained preferences validation",
    finetune.export_jsonl: "examples path",
    finetune.export_training: "examples folder held_out tuned form base_model",
    finetune.export_model: "adapter folder tuned base_model prompts n_prompts max_new_tokens facts",
    finetune.rows: "trained sets validation",
}


@pytest.mark.parametrize("function", PINNED, ids=lambda f: f"{f.__module__}.{f.__qualname__}")
def test_parameters_keep_their_names_and_order(function):
    assert " ".join(inspect.signature(function).parameters) == PINNED[function]


def test_all_but_the_subject_is_keyword_only():
    loose = []
    for function in PINNED:
        positional = [
            p.name for p in inspect.signature(function).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD
        ]
        if len([p for p in positional if p != "self"]) > 3:
            loose.append(function.__qualname__)
    assert loose == []


PAGES = [
    CHECKOUT / "README.md",
    *sorted((CHECKOUT / "arislab").rglob("README.md")),
    *GUIDE,
    CHECKOUT / "papermill_runs/README.md",
]


def calls(text):
    """What a page types in Python between backticks: all that calls something; its blocks are commands of the shell."""
    for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        line = " ".join(code.split())
        with contextlib.suppress(SyntaxError):
            if any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(line, mode="eval"))):
                yield line


def test_what_the_pages_type_in_python_works(lake):
    """After ``import arislab`` alone, and in a notebook that has its runs and its lake."""
    typed = {line for page in PAGES for line in calls(page.read_text().partition("\n# Lab log")[0])}
    assert {"arislab.runs()", "runs.begin()", 'lake["training_data_raw"].read(version=3)'} <= typed
    for n in range(4):
        lake["training_data_raw"].append(pl.DataFrame({**RAW, "custom_id": [f"r{n}"]}))
    for line in typed:
        first = (
            ""
            if line.startswith("arislab.")
            else "from arislab import runs\nfrom arislab.lake import Lake\nlake = Lake()"
        )
        code = f"import arislab\n{first}\nprint(repr({line}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)


RAW = {"custom_id": ["a"], "candidate_id": ["c"], "task": ["t"], "model": ["m"], "input": ["i"], "status": ["ok"]}


def shown(path):
    """The Python in a file's docstring: its paragraphs that call something, but for those that a doctest runs."""
    sources = []
    for paragraph in re.split(r"\n\s*\n", ast.get_docstring(ast.parse(path.read_text())) or ""):
        source = textwrap.dedent(paragraph)
        with contextlib.suppress(SyntaxError):
            if ">>>" not in source and any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(source))):
                sources.append(source)
    return sources


def test_what_a_module_shows_in_python_works(lake, tmp_path):
    shown_by_file = {path.stem: shown(path) for path in (CHECKOUT / "arislab").rglob("*.py") if shown(path)}
    files = {"conditions", "delta", "opening", "writing", "task", "signals", "spilled"}
    assert shown_by_file.keys() == files, "each is tried below"

    (code,) = shown_by_file["conditions"]
    for line in code.splitlines():
        value = eval(line, vars(conditions))
        assert isinstance(value, pl.Expr) or value == line.partition("Delta: ")[2]

    (code,) = shown_by_file["delta"]
    curated = {
        "id": "a",
        "custom_id": "a",
        "candidate_id": "c",
        "task": "t",
        "input": "i",
        "output": "o",
        "split": "train",
    }
    facts = {"quality_score": 0.5, "needs_review": True, "approved": False}
    lake["training_data_curated"].append(pl.DataFrame([curated | facts]))
    rows = pl.DataFrame(RAW)
    lake["training_data_raw"].append(rows)
    exec(code, {"Lake": Lake, "rows": rows})

    folder = Path(lake.path) / "training_data_raw"
    (code,) = shown_by_file["writing"]
    for n in range(3):
        exec(code, vars(writing) | {"folder": folder, "rows": pl.DataFrame(RAW | {"custom_id": [f"b{n}"]})})
    (code,) = shown_by_file["opening"]
    names = vars(opening) | {"folder": folder, "table": opening.open_version(folder, 3)}
    assert [eval(line, names) is None for line in code.splitlines()] == [False, False]

    names = {"spilled": spilled, "lazy": pl.LazyFrame(RAW), "np": np, "n": 3, "file": ["1", "2"], "read": int}
    names |= {"places": pl.Series([0, 0]), "condition": pl.lit(value=False)}
    exec(*shown_by_file["spilled"], names)
    assert names["some"].equals(names["rows"][[0, 0]])
    assert names["good"].equals(names["rows"].clear())
    assert (names["rows"].to_dict(as_series=False), names["keys"].shape, names["objects"]) == (RAW, (41, 3), [1, 2])

    names = {}
    exec(*shown_by_file["signals"], names)
    assert names["SCORERS"]["agrees"]("so 18", ["18", "17"]) == 0.5

    file = inspect.getdoc(task).partition("::\n\n")[2].partition("\nOptional: ")[0]
    (tmp_path / "tickets.py").write_text(textwrap.dedent(file))
    assert scoring.check(task.load(tmp_path / "tickets.py")).height == 2


def test_each_part_that_notebooks_name_is_found_by_its_name_and_nothing_else():
    code = (
        "import sys, arislab\n"
        "heavy = {'polars', 'arislab.runs'} & set(sys.modules)\n"
        "parts = [getattr(arislab, name).__name__ for name in dir(arislab) if not name.startswith('_') and "
        "name.islower()]\n"
        "print(heavy, 'arislab.runs' in parts, 'arislab.batch' in parts, hasattr(arislab, 'nonsense'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set() True True False\n", done.stderr


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("curation", ["examples", "approved", "pool", "data_version", "control"]),
        ("selection", ["keep", "keep_top", "near_duplicates"]),
        ("explore", ["Explorer"]),
        ("verdicts", ["judged", "represent", "not_kept"]),
        ("references", ["embedder", "nearest", "cells"]),
        ("cells", ["ask", "plan", "cost"]),
    ],
)
def test_a_notebook_of_an_earlier_version_finds_what_it_names_and_is_told_the_new_name(name, functions):
    with pytest.warns(DeprecationWarning, match=rf"arislab\.{name} is part of arislab\.(curate(\.verdicts)?|icl) now"):
        part = getattr(arislab, name)
    assert all(callable(getattr(part, function)) for function in functions)


EARLIER = (CHECKOUT / "tests" / "fixtures" / "earlier_names.txt").read_text().split()
"""What the shipped notebooks imported, and named of it, before the package had rooms."""


@pytest.mark.filterwarnings("ignore:arislab:DeprecationWarning")
@pytest.mark.parametrize("name", EARLIER)
def test_what_earlier_notebooks_imported_is_still_there(name):
    part, path = arislab, "arislab"
    for word in name.split(".")[1:]:
        path = f"{path}.{word}"
        part = getattr(part, word) if hasattr(part, word) else importlib.import_module(path)
    assert part is not None
