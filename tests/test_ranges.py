"""Parameters out of range: one message each, before anything is read or spent."""

import ast
import json

import pytest
from conftest import CHECKOUT

from arislab import ranges
from arislab.errors import ParameterError

WRONG = {
    **dict.fromkeys(ranges.WHOLE, (-1, 10**12, 1.5, float("nan"), True)),
    **dict.fromkeys(ranges.NUMBERS, (-2, 1e10, float("nan"), float("inf"), True)),
    **dict.fromkeys(ranges.FRACTIONS, (0, -1, 1.0001, 1e9, float("nan"), float("-inf"), True)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_number_out_of_range_is_named_with_what_is_allowed(name):
    for value in WRONG[name]:
        with pytest.raises(ParameterError, match=rf"{name} must be .* got {str(value).replace('+', '.')}"):
            ranges.check(**{name: value})


def test_the_ends_of_each_range_are_allowed():
    ranges.check(**{name: end for name, (low, high, _) in ranges.WHOLE.items() for end in (low, high)})
    ranges.check(**{name: end for name, (low, high, _) in ranges.NUMBERS.items() for end in (low, high)})
    ranges.check(**dict.fromkeys(ranges.FRACTIONS, 1))


@pytest.mark.parametrize("phase", ["1_generate", "2_curate", "3_icl", "4_finetune", "5_evaluate"])
def test_every_number_that_a_phase_takes_is_checked_in_its_first_cell(phase):
    """Numbers that ranges does not know are checked by the one function that takes them."""
    parameters, first = [
        c
        for c in json.loads((CHECKOUT / "notebooks" / f"{phase}.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    ][:2]
    numbers = {
        n.target.id
        for n in ast.parse("".join(parameters["source"])).body
        if ast.unparse(n.annotation) in ("int", "float")
    }
    call = next(
        n
        for n in ast.walk(ast.parse("".join(first["source"])))
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "ranges.check"
    )
    checked = {k.arg for k in call.keywords}
    known = numbers & {*ranges.WHOLE, *ranges.NUMBERS, *ranges.FRACTIONS}
    assert known - {"seed"} <= checked
    assert numbers - known <= {"r", "lora_alpha", "learning_rate", "num_train_epochs", "batch_size", "max_length", "k"}
