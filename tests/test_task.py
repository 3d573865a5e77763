"""The task file: what its functions may return, and how what goes wrong in them is said."""

import json
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from toys import people

from arislab import batch, curate, evaluate, scoring, task
from arislab.errors import TaskError
from arislab.task import load

TASK = '''"""Tickets."""


def helper(text):
    return 1 / len(text.split("|")[3])


def to_messages(candidate):
    return [{"role": "user", "content": candidate["profile"]["text"]}]


def short(output):
    return len(output) < 200


def category(candidate):
    return candidate["profile"]["text"]


def difficulty(candidate):
    return 0.5


SCORERS, WEIGHTS = {"short": short}, {"short": 1}
GOLD = [{"output": "Printer is out of toner."}]
'''


def written(tmp_path, *change):
    path = tmp_path / "tickets.py"
    path.write_text(TASK.replace(*change) if change else TASK)
    return path


def answers(*texts):
    names = [f"r{i}" for i in range(len(texts))]
    status = {"status": "ok", "finish_reason": "stop", "model": "m", "task": "tickets"}
    frame = pl.DataFrame(
        {"custom_id": names, "candidate_id": [f"c{i:04d}" for i in range(len(texts))], "llm_output": texts}
    )
    return frame.with_columns(**{k: pl.lit(v) for k, v in status.items()}, metadata=pl.lit(None, dtype=pl.String))


def scored(path, *texts):
    return scoring.score(scoring.rows(answers(*texts)), load(path))["quality"].to_list()


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.True_, 1.0),
        (np.float32(0.25), 0.25),
        (np.int64(1), 1.0),
        (np.array(0.5), 0.5),
        (1.0000000000000002, 1.0),
        (np.float64(1.0000000000000002), 1.0),
        (-1e-17, 0.0),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
        (True, 1.0),
        (None, None),
    ],
)
def test_numbers_of_other_libraries_and_of_rounding_are_numbers(value, expected):
    assert task.fraction(value) == expected
    assert type(task.fraction(value)) in (float, type(None))


def test_a_scalar_of_torch_is_a_number():
    torch = pytest.importorskip("torch")
    assert task.fraction(torch.tensor(0.25)) == 0.25
    assert task.fraction(torch.tensor(True)) == 1.0
    with pytest.raises(TypeError, match="no single number"):
        task.fraction(torch.tensor([0.25, 0.5]))


@pytest.mark.parametrize(
    "value",
    [1.001, -0.001, float("nan"), float("inf"), np.float32("nan"), "1", b"1", [1], 1j, np.array([0, 1]), object()],
)
def test_what_is_no_number_of_0_to_1_is_refused(value):
    with pytest.raises(TypeError):
        task.fraction(value)


def test_scores_from_numpy_and_from_rounding_are_taken(tmp_path):
    path = written(tmp_path, "return len(output) < 200", "import numpy\n    return numpy.float32(len(output) / 4)")
    assert scored(path, "ab", "abcd") == [0.5, 1.0]
    path = written(tmp_path, "return len(output) < 200", "return sum([0.1] * 10) + len(output) * 2e-16")
    assert scored(path, "abcd") == [1.0]


def test_gold_that_only_rounding_keeps_from_1_is_gold(tmp_path):
    path = written(tmp_path, "return len(output) < 200", "return 0.9999999999999998")
    assert scoring.check(load(path))["kind"].to_list() == ["gold"]


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        ("output, limit=3", "len(output) <= limit", [1.0, 0.0]),
        ("output, model='none'", "model == 'm'", [1.0, 1.0]),
        ("output, *, limit=3", "len(output) <= limit", [1.0, 0.0]),
        ("output, first=1, model='none'", "first == 1 and model == 'm'", [1.0, 1.0]),
        ("*, output", "len(output) <= 3", [1.0, 0.0]),
        ("output, /, **rest", "len(output) <= 3 and not rest", [1.0, 0.0]),
        ("*columns", "columns == ()", [1.0, 1.0]),
    ],
)
def test_a_parameter_with_a_default_is_optional(tmp_path, head, body, expected):
    path = written(
        tmp_path, "def short(output):\n    return len(output) < 200", f"def short({head}):\n    return {body}"
    )
    assert scored(path, "abc", "abcd") == expected


def test_a_scorer_without_names_for_its_parameters_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"scorer 'short' is <.*whose parameters have no names"):
        load(written(tmp_path, '{"short": short}, {', '{"short": dict}, {'))


# --- what fails -------------------------------------------------------------------------------------------------------

FAILURES = [
    ("return helper(output)", r"IndexError: list index out of range \(line 5: return 1 / len"),
    (
        "import re; return bool(re.match('(', output))",
        r"(re\.)?(error|PatternError): missing \), unterminated subpattern",
    ),
    ("assert output == 'x', 'no x'; return 1", "AssertionError: no x"),
    ("assert output == 'x'; return 1", r"AssertionError \(line 13"),
    ("raise RuntimeError('model is gone')", "RuntimeError: model is gone"),
    ("raise SystemExit(0)", "SystemExit: 0"),
    ("import sys; sys.exit()", r"SystemExit \(line 13"),
    ("eval('1 +'); return 1", "SyntaxError"),
    ("return short(output)", "RecursionError"),
    ("raise StopIteration", "StopIteration"),
]


@pytest.mark.parametrize(("body", "message"), FAILURES)
def test_a_scorer_that_raises_anything_is_named_with_line_row_and_what_the_row_holds(tmp_path, body, message):
    path = written(tmp_path, "return len(output) < 200", body)
    with pytest.raises(TaskError, match=f"scorer 'short' of tickets.py failed on row 'r0': {message}") as raised:
        scored(path, "an answer " * 50)
    assert "it was given output='an answer an answer" in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_file_given_by_a_relative_path_is_named_with_its_lines_too(tmp_path, monkeypatch):
    written(tmp_path, "return len(output) < 200", "return 1 / 0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=r"ZeroDivisionError: division by zero \(line 13: return 1 / 0\)"):
        scored("tickets.py", "an answer")


def test_an_interrupt_in_a_scorer_is_an_interrupt(tmp_path):
    path = written(tmp_path, "return len(output) < 200", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        scored(path, "an answer")


def test_a_value_that_no_scorer_may_return_is_named_with_what_the_row_holds(tmp_path):
    path = written(tmp_path, "return len(output) < 200", "return float('nan')")
    with pytest.raises(
        TaskError, match=r"returned nan on row 'r0'; it must return 0..1, a bool, or None .* it was given output='abc'"
    ):
        scored(path, "abc")


ODD = """
class Bare:
    def item(self):
        raise KeyError("item")


class Odd:
    def __repr__(self):
        raise LookupError("nameless")


class Mute(Exception):
    def __str__(self):
        raise ValueError("mute")


class Half:
    def item(self):
        return 0.5


def short(output):
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 10**400", r"returned 10{196}\.\.\. on row 'r0'; it must return 0..1"),
        ("return -(10**5000)", "returned a value of type int that cannot be shown on row 'r0'"),
        ("import fractions; return fractions.Fraction(10**400)", r"returned Fraction\(10+\.\.\. on row 'r0'"),
        ("import decimal; return decimal.Decimal('sNaN')", r"returned Decimal\('sNaN'\) on row 'r0'"),
        ("return Bare()", "returned <.*Bare object at .*> on row 'r0'"),
        ("return Odd()", "returned a value of type Odd that cannot be shown on row 'r0'"),
        ("return [Odd()]", "returned a value of type list that cannot be shown on row 'r0'"),
        ("raise Mute", r"failed on row 'r0': Mute \(line \d+: raise Mute\)"),
    ],
)
def test_a_value_that_cannot_be_read_or_shown_is_named_with_its_row_all_the_same(tmp_path, body, message):
    path = written(tmp_path, "def short(output):\n    return len(output) < 200", f"{ODD.strip()}\n    {body}")
    with pytest.raises(TaskError, match=f"scorer 'short' of tickets.py {message}.* it was given output='abc'"):
        scored(path, "abc")


def test_what_a_function_of_a_candidate_is_given_or_returns_need_not_be_shown(tmp_path):
    difficulty = load(written(tmp_path, "    return 0.5", "    return 10**5000")).difficulty
    with pytest.raises(
        TaskError, match=r"difficulty of tickets.py failed on candidate 'c7': .*int that cannot be shown"
    ):
        difficulty({"candidate_id": "c7", "profile": {"text": "x", "n": 10**5000}})


@pytest.mark.parametrize(("weight", "shown"), [("10**400", "10{10}"), ("Odd()", "a value of type Odd")])
def test_a_weight_that_is_no_number_is_named(tmp_path, weight, shown):
    path = written(tmp_path, "def short(output):", ODD.strip())
    path.write_text(path.read_text().replace('{"short": 1}', f'{{"short": {weight}}}'))
    with pytest.raises(TaskError, match=rf"WEIGHTS\['short'\] is {shown}.*; it must be a number > 0"):
        load(path)


def test_a_weight_of_another_library_is_a_number(tmp_path):
    path = written(tmp_path, "def short(output):", ODD.strip())
    path.write_text(path.read_text().replace('{"short": 1}', '{"short": Half()}'))
    assert load(path).weights == {"short": 0.5}


@pytest.mark.parametrize("function", ["to_messages", "category", "difficulty"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return candidate['profile']['skils'][0]", r"KeyError: 'skils' \(line \d+: return"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("return object", "TypeError: it returned <class 'object'>: "),
    ],
)
def test_a_function_of_a_candidate_is_named_with_line_candidate_and_profile_wherever_it_is_called(
    tmp_path, function, body, message
):
    head = f"def {function}(candidate):\n"
    path = written(tmp_path, head, f"{head}    {body}\n")
    spec, who = load(path), people(1)
    kept = (
        answers("fine")
        .rename({"llm_output": "output"})
        .with_columns(quality=1.0, messages=pl.lit(None, dtype=pl.String))
    )
    calls = [
        lambda: curate.examples(kept, who, spec),
        lambda: getattr(spec, function)(who.row(0, named=True) | {"profile": json.loads(who["profile"][0])}),
    ]
    if function == "to_messages":
        calls += [
            lambda: evaluate.texts(who, spec.to_messages),
            lambda: batch.build_requests(who, spec.to_messages, model="m"),
        ]
    if function == "category":
        calls.append(lambda: scoring.rows(answers("fine"), who, task=spec))
    for call in calls:
        with pytest.raises(
            TaskError, match=f"{function} of tickets.py failed on candidate 'c0000': {message}"
        ) as raised:
            call()
        assert "it was given profile={" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('no model')", r"cannot be run: RuntimeError: no model \(line 1: raise"),
        ("import re\nre.compile('(')", r"missing \).* \(line 2: re\.compile"),
        ("exit(3)", "cannot be run: SystemExit: 3"),
        ("def f(:\n", r"cannot be run: SyntaxError: .* \(line 1\)"),
        ("assert False", r"cannot be run: AssertionError \(line 1"),
        (
            TASK.replace("GOLD = [", "GOLD = 3 or ["),
            r"GOLD must be a list of rows such as {'output': text}, got GOLD=3",
        ),
        (TASK.replace('{"short": 1}', "['short']"), "WEIGHTS must be a dict"),
        (TASK.replace('{"short": 1}', '{"short": "much"}'), r"WEIGHTS\['short'\] is 'much'; it must be a number > 0"),
        (TASK.replace('{"short": 1}', '{"short": float("inf")}'), "it must be a number > 0"),
        (TASK.replace("GOLD = [", "SYSTEM = None\nGOLD = ["), "SYSTEM must be text, got None"),
        (TASK.replace("GOLD = [", "category = 'cook'\nGOLD = ["), "category is 'cook'; it must be a function"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path, text, message):
    path = tmp_path / "tickets.py"
    path.write_text(text)
    with pytest.raises(TaskError, match=message):
        load(path)


def test_a_file_that_is_no_utf8_is_said_and_a_byte_order_mark_is_not(tmp_path):
    path = written(tmp_path)
    path.write_bytes(b"# caf\xe9\n" + TASK.encode())
    with pytest.raises(
        TaskError, match=r"tickets.py cannot be read: UnicodeDecodeError: .*; it must be a text file in UTF-8"
    ):
        load(path)
    path.write_bytes(b"\xef\xbb\xbf" + TASK.encode())
    assert load(path).name == "tickets"
    path.write_bytes(TASK.encode() + b"\x00")
    with pytest.raises(TaskError, match=r"tickets.py cannot be run: .*null byte"):
        load(path)


def test_an_interrupt_while_a_file_runs_is_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load(written(tmp_path, '"""Tickets."""', "raise KeyboardInterrupt"))


def test_a_task_that_loads_leaves_nothing_in_the_table_of_modules(tmp_path):
    load(written(tmp_path))
    assert not [name for name in sys.modules if "tickets" in name]


def test_a_task_shows_its_file_its_version_and_what_counts():
    """The same text each time: no addresses of functions."""
    spec = load("instruction_following")
    first, scorers, rows = repr(spec).splitlines()
    assert first == f"Task instruction_following, version {spec.version}: {spec.path}"
    assert scorers == "scorers and their weights: " + ", ".join(f"{s} {w:g}" for s, w in spec.weights.items())
    assert rows == f"{len(spec.gold)} GOLD rows, {len(spec.bad)} BAD rows"


REVIEW = {
    "labels": ["wrong", "rude"],
    "ratings": {"care": "1 rude, 5 kind"},
    "categories": ["a", "b"],
    "guideline": "# Be *fair*",
}


def test_what_people_are_asked_is_loaded_as_it_stands(tmp_path):
    assert load(written(tmp_path)).review == {}
    assert load(written(tmp_path, "GOLD", f"REVIEW = {REVIEW}\nGOLD")).review == REVIEW
    assert load(written(tmp_path, "GOLD", "REVIEW = {'labels': ('only one',)}\nGOLD")).review["labels"] == ("only one",)
    for name in ("candidate_evaluation", "instruction_following"):
        assert {"labels", "guideline"} <= set(load(name).review)
        assert len(load(name).review["labels"]) <= 9, "a reason has a digit"


@pytest.mark.parametrize(
    ("review", "why"),
    [
        ("[]", r"REVIEW must be a dict with some of labels, ratings, categories, guideline, got \[\]"),
        ("{'label': ['a']}", r"REVIEW has 'label'; .*'labels'"),
        ("{3: 1}", "REVIEW has 3"),
        ("{'labels': 'wrong'}", r"REVIEW\['labels'\] must be a list of different texts, got 'wrong'"),
        ("{'labels': ['a', 'a']}", "a list of different texts"),
        ("{'labels': ['a', ' ']}", "a list of different texts"),
        ("{'labels': [['a']]}", "a list of different texts"),
        ("{'ratings': ['care']}", "a dict of criterion: what 1 and what 5 mean"),
        ("{'ratings': {'care': 5}}", "a dict of criterion: what 1 and what 5 mean"),
        ("{'categories': [str(i) for i in range(27)]}", "at most 26 different names"),
        ("{'guideline': None}", r"must be Markdown \(text\), got None"),
    ],
)
def test_what_people_cannot_be_asked_is_one_error_as_the_file_is_loaded(tmp_path, review, why):
    with pytest.raises(TaskError, match=why):
        load(written(tmp_path, "GOLD", f"REVIEW = {review}\nGOLD"))
