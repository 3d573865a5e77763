"""A parameter that is out of range is one message, before anything is spent."""

import functools
import json
from pathlib import Path

import pytest
from toys import CHECKOUT, arislab

import arislab as arislab_package
from arislab import ranges
from arislab.errors import ArislabError, ParameterError
from arislab.lake import Lake
from arislab.runs import convert, parameters_of

GOOD = {
    "samples": 1,
    "temperature": 0.0,
    "usd_per_million": [],
    "resend": [],
    "task": "t",
    "seed": 0,
    "budget_usd": 0.0,
}


def test_what_is_in_range_passes():
    ranges.check(**GOOD)
    ranges.check(usd_per_million=[0.1, 2], resend=["error", "lost"], temperature=2)


@pytest.mark.parametrize("name", ranges.WHOLE)
@pytest.mark.parametrize("value", [-1, 10**30, 2.5, True, "3", float("nan")])
def test_whole_numbers_have_a_lowest_and_a_highest(name, value):
    with pytest.raises(ParameterError, match=rf"^{name} must be a whole number from \d+ to [\d,]+, got .*; \w+"):
        ranges.check(**{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": 0}, "samples must be a whole number from 1 to 10,000, got 0"),
        ({"temperature": -0.1}, "temperature must be a number from 0 to 2, got -0.1"),
        ({"temperature": 1e300}, r"got 1e\+300"),
        ({"temperature": float("nan")}, "got nan"),
        ({"budget_usd": float("inf")}, "budget_usd must be a number from 0 to 1e"),
        ({"usd_per_million": [1.0]}, "usd_per_million must be two prices"),
        ({"usd_per_million": [1.0, -1.0]}, "usd_per_million must be two prices"),
        ({"resend": ["ok"]}, "resend must name statuses of error, lost, cancelled, got 'ok'"),
        ({"base_url": " "}, "base_url must not be empty, got ' '"),
        ({"temperature": 10**400}, "temperature must be a number from 0 to 2, got 1000"),
    ],
)
def test_the_first_parameter_out_of_range_is_named_with_what_is_allowed(given, message):
    with pytest.raises(ParameterError, match=message):
        ranges.check(**given)


def test_all_names_of_a_notebook_are_looked_at_and_its_own_are_left_alone():
    ranges.check_all(GOOD | {"my_own": -1, "budget": object(), "samples_": 0, "In": [""]})
    with pytest.raises(ParameterError, match="samples must be a whole number from 1 to 10,000, got 0"):
        ranges.check_all({"my_own": -1, "samples": 0, "temperature": -1})
    with pytest.raises(ParameterError, match="base_url must not be empty, got ' '"):
        ranges.check_all({"base_url": " "})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n_test", ["5", None, [5]]),
        ("margin", ["0", None]),
        ("task", [5, None, ["a"]]),
        ("model", [5, ["m"]]),
        ("selection", [5, ["quality >= 0.5"]]),
        ("compare_with", [5, ["run"]]),
        ("one_per", [True, ["category"]]),
        ("usd_per_million", [3.0, None, "", {}]),
        ("resend", ["error", 5, None]),
        ("pinned", ["r-1", [1, 2], None]),
        ("banned", [[None]]),
        ("repair", ["false", 0, None]),
        ("logprobs", ["false", 0, None]),
        ("keep_approved", ["true", 1]),
        ("one_per_group", ["group_id", 1, None]),
        ("diversity", ["0.3", True, None, 1.01, -0.1]),
        ("similar_by_meaning", ["0.9", True, None, 1.01, -0.1]),
        ("system_role", [5, None]),
        ("chat_template_kwargs", [[], "enable_thinking", 5, None, {1: 2}]),
    ],
)
def test_a_literal_of_another_kind_is_named_whoever_edits_the_cell(name, values):
    for value in values:
        with pytest.raises(ParameterError, match=name):
            ranges.check_all({name: value})


def test_names_of_a_notebook_that_hold_no_literal_and_defaults_are_left_alone():
    ranges.check_all({"model": len, "k": object(), "pinned": range(3), "task": ranges, "budget": object()})
    ranges.check_all({"model": "", "embedding_model": None, "one_per": None, "pinned": [], "banned": ("r-1",)})
    ranges.check_all({"selection": "", "compare_with": ""})


PHASES = sorted((CHECKOUT / "notebooks").glob("[1-5]_*.ipynb"))


@pytest.mark.parametrize("path", PHASES, ids=lambda path: path.stem)
def test_every_parameter_of_a_phase_is_checked_in_its_setup_cell_or_by_the_function_that_uses_it(path):
    """A parameter that is added, and that nobody checks, is found here."""
    checked = {
        *ranges.WHOLE,
        *ranges.NUMBERS,
        *ranges.FRACTIONS,
        *ranges.CHOICES,
        *ranges.TEXTS,
        *ranges.MAY_BE_EMPTY,
        *ranges.OTHERS,
    }
    assert set(parameters_of(path)) - checked - set(ranges.ELSEWHERE) == set()
    setup = next("".join(c["source"]) for c in book(path.stem) if c.get("id") == "setup")
    assert "\nranges.check_all(globals())\nruns.begin()\n" in setup


@pytest.mark.parametrize(
    ("name", "value"),
    [("overlap", 1.5), ("overlap", -0.1), ("planted", 0.6), ("n_opinions", 0), ("n_opinions", 101), ("n_review", 0)],
)
def test_the_parameters_of_a_review_session_have_their_ranges(name, value):
    parameters = {n: one.default for n, one in parameters_of(CHECKOUT / "notebooks" / "review_page.ipynb").items()}
    ranges.check_all(parameters)
    with pytest.raises(ParameterError, match=f"^{name} must be"):
        ranges.check_all(parameters | {name: value})


def test_each_function_that_is_said_to_check_a_parameter_exists():
    for name in ranges.ELSEWHERE.values():
        assert callable(functools.reduce(getattr, name.split("."), arislab_package)), name


EDGES = {
    "1_generate": {
        "n_candidates": ["0", "-1", str(10**20)], "samples": ["0", str(10**20)], "temperature": ["-1", "1e300", "nan"],
        "top_p": ["0", "1.1", "nan"],
        "max_tokens": ["0", str(10**20)],
        "n_dry_run": ["0", "-3"], "usd_per_million": ["1", "-1,2"], "budget_usd": ["-1"], "resend": ["ok"],
        "seed": ["-1", str(10**20)], "task": [""],
        "base_url": [""], "system_role": ["critic"], "chat_template_kwargs": ["[]", '{"messages": 1}'],
        "logprobs": ["perhaps"],
    },
    "4_finetune": {
        "base_model": [""], "control": ["", "best"], "method": [""],
        "r": ["0", "-8", str(10**20)], "lora_alpha": ["0", str(10**20)],
        "learning_rate": ["0", "1e9", "nan"],
        "num_train_epochs": ["0", "-1", str(10**20)], "batch_size": ["0", str(10**20)], "max_length": ["0", "4096"],
        "n_validation": ["0", "-1"], "seeds": ["0", "101"], "early_stopping": ["-1", "1001"],
        "checkpoint_minutes": ["-1", "nan", "10081"],
        "temperature": ["-1"], "max_tokens": ["0"], "seed": ["-1"],
        "chat_template_kwargs": ['{"enable_thinking": false}'],
    },
}  # fmt: skip


@pytest.mark.parametrize("phase", EDGES)
def test_every_number_and_text_of_a_phase_is_checked_in_its_first_cell(root, phase):
    """The cells themselves, with the edge in place of the default.

    Nothing after the first one may be needed to refuse.
    """
    cells = {cell["id"]: "".join(cell["source"]) for cell in book(phase)}
    known = parameters_of(CHECKOUT / "notebooks" / f"{phase}.ipynb")
    free = {"model", "approve", "task", "base_url", "examples"}  # name something: looked up where they are used
    assert set(known) - free - set(EDGES[phase]) == set()
    for name, edges in EDGES[phase].items():
        for edge in edges:
            with pytest.raises(ArislabError, match=f"{name}|task file") as error:
                first_cell(cells, known, {name: edge})
            assert str(error.value).count("\n") == 0


def book(phase):
    return json.loads((CHECKOUT / "notebooks" / f"{phase}.ipynb").read_text())["cells"]


def first_cell(cells, known, given):
    scope = {}
    exec(cells["parameters"], scope)
    exec(cells["setup"], scope | convert(known, given))


@pytest.mark.slow
def test_without_validation_candidates_the_adapters_are_trained_all_the_same_and_that_is_said(tmp_path):
    rows = [
        json.dumps({"q": f"Is {n} a large number, and why?", "a": f"{n} is small beside {n * n}, I say."})
        for n in range(3, 9)
    ]
    (tmp_path / "few.jsonl").write_text("\n".join(rows))
    (tmp_path / "sizes.py").write_text(
        "def to_messages(c): return [{'role': 'user', 'content': c['profile']['input']}]\n"
        "def good(output): return 1.0\nSCORERS, WEIGHTS, GOLD = {'good': good}, {'good': 1.0}, [{'output': 'x'}]\n"
    )
    task = str(tmp_path / "sizes.py")
    columns = ["--input", "q", "--output", "a"]
    arislab("import", str(tmp_path / "few.jsonl"), "--as", "outputs", "--task", task, *columns, root=tmp_path)
    lake = Lake(tmp_path / "data" / "lake")
    people = lake["candidates"].read()
    lake["candidates"].upsert(people.with_columns(split=people["split"].replace({"validation": "train"})))
    arislab("run", "curate", "-p", "task", task, "-p", "keep_fraction", "1.0", root=tmp_path)
    arislab("run", "finetune", "-p", "task", task, root=tmp_path)
    record = json.loads(arislab("runs", "--json", root=tmp_path))[0]
    numbers = record["headline"]
    assert numbers["n_validation"] == 0
    assert not [name for name in numbers if name.startswith("validation_")]
    assert numbers["train_loss"] > 0
    assert numbers["eval_loss"] is None, "of a handful of examples none is held out"
    assert numbers["n_train"] == lake["training_data_curated"].rows
    trained = lake["finetuning_runs"].read()
    assert trained["validation_score"].to_list() == [None, None]
    assert set(lake["model_events"].read()["version"]) == set(trained["model_path"])
    folder = Path(record["folder"])
    assert (
        "training_data_raw" not in json.loads((folder / "run.json").read_text())["tables_written"]
    )  # nobody was asked
    cells = json.loads((folder / "notebook.ipynb").read_text())["cells"]
    printed = "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    assert "WARNING: no candidate is in the validation split" in printed
