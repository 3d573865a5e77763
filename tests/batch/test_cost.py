"""Prices come from a dated file that the user keeps; what it does not hold is unknown."""

import tomllib
import warnings
from datetime import date

import pytest
from toys import CHECKOUT

from arislab.batch import Price, prices
from arislab.errors import ParameterError

ENTRY = """
[[price]]
model = "{model}"
as_of = {as_of}
usd_per_million_prompt = {prompt}
usd_per_million_completion = 2.5
source = "a test"
"""
TODAY = date(2026, 11, 24)


def entry(model="m", as_of="2026-11-01", prompt="0.5"):
    return ENTRY.format(model=model, as_of=as_of, prompt=prompt)


@pytest.fixture
def file(tmp_path):
    def write(*entries):
        path = tmp_path / "prices.toml"
        path.write_text("".join(entries))
        return path

    return write


def test_a_price_is_found_and_multiplied(file):
    path = file(entry("other", prompt="9"), entry())
    price = prices("m", path=path, today=TODAY)
    assert price == Price("m", 0.5, 2.5, date(2026, 11, 1), "a test")
    assert price.usd(1_000_000, 200_000) == pytest.approx(1.0)
    assert prices("unknown", path=path, today=TODAY) is None


def test_the_newest_entry_that_is_not_of_the_future_wins(file):
    path = file(*(entry(as_of=day, prompt=p) for day, p in [("2026-10-01", 2), ("2026-11-24", 3), ("2026-11-25", 4)]))
    assert prices("m", path=path, today=TODAY).usd_per_million_prompt == 3
    assert prices("m", path=path, today=date(2026, 11, 25)).usd_per_million_prompt == 4
    assert prices("m", path=path, today=date(2026, 9, 30)) is None


def test_a_price_older_than_180_days_warns_and_one_of_180_days_does_not(file):
    path = file(entry(as_of="2026-05-28"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prices("m", path=path, today=TODAY) is not None
    with pytest.warns(UserWarning, match="181 days ago; look at a test"):
        prices("m", path=path, today=date(2026, 11, 25))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[price]\n", "not TOML"),
        ("[price]\nmodel = 'm'\n", r"one \[price\]"),
        ("usd = 3\n", r"\[\[price\]\] entries only, got usd"),
        (entry(prompt="-1"), "usd_per_million_prompt must be US dollars .* got -1"),
        (entry(prompt="nan"), "usd_per_million_prompt must be"),
        (entry(prompt="true"), "usd_per_million_prompt must be"),
        (entry(as_of="'2026-11-01'"), "as_of must be a day without quotes"),
        (entry(as_of="2026-11-01T00:00:00Z"), "as_of must be a day"),
        (entry(model=" "), "model must be a text"),
        (entry() + "currency = 'EUR'\n", "'currency' is unknown"),
        ("[[price]]\nmodel = 'm'\n", "as_of is missing"),
        (entry() + entry(prompt="7"), "two prices of 'm' as of 2026-11-01"),
    ],
)
def test_a_bad_entry_gets_one_clear_error_that_names_file_and_entry(file, text, said):
    path = file(text)
    with pytest.raises(ParameterError, match=said) as caught:
        prices("another", path=path, today=TODAY)
    assert str(path) in str(caught.value)


def test_no_file_means_no_price_and_the_shipped_file_has_no_entry(tmp_path):
    assert prices("m", path=tmp_path / "none.toml") is None
    assert tomllib.loads((CHECKOUT / "data" / "prices.toml").read_text()) == {}


def test_the_example_in_the_shipped_file_is_a_valid_entry(file):
    lines = (CHECKOUT / "data" / "prices.toml").read_text().splitlines()
    first = lines.index("# [[price]]")
    path = file("\n".join(line[2:] for line in lines[first : first + 6]))
    assert prices("some-model", path=path, today=TODAY).usd_per_million_completion == 0.20


def test_the_file_of_the_root_comes_before_the_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prices.toml").write_text(entry())
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path))
    assert prices("m", today=TODAY).usd_per_million_prompt == 0.5
