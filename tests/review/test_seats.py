"""Addresses of the review server: one for each reviewer, the same each time, and nobody else's."""

import stat

import pytest

from arislab.errors import ParameterError, PrerequisiteError
from arislab.review import seats


def test_who_has_a_seat_keeps_it_and_the_port_stays(tmp_path):
    first = seats.prepare(tmp_path, ["Ada"])
    again = seats.prepare(tmp_path, ["Grace", "Ada"])
    assert again.tokens["Ada"] == first.tokens["Ada"]
    assert again.port == first.port
    assert set(again.tokens) == {"lead", "Ada", "Grace"}
    assert len(set(again.tokens.values())) == 3
    assert seats.read(tmp_path) == again
    assert stat.S_IMODE((tmp_path / "seats.json").stat().st_mode) == 0o600
    assert seats.prepare(tmp_path, port=4711).port == seats.prepare(tmp_path).port == 4711


def test_an_address_names_its_page_and_its_secret_names_the_person(tmp_path):
    known = seats.prepare(tmp_path, ["Ada"], lead="Alan", port=4711)
    assert known.url("Ada") == f"http://127.0.0.1:4711/voila/render/review.ipynb?token={known.tokens['Ada']}"
    assert "/lead.ipynb?" in known.url("Alan")
    assert known.name_of(known.tokens["Ada"]) == "Ada"
    assert known.name_of("") is None
    assert known.name_of("Ada") is None


def test_a_kernel_knows_whose_page_it_runs_for(tmp_path, monkeypatch):
    known = seats.prepare(tmp_path, ["Ada"])
    monkeypatch.delenv("QUERY_STRING", raising=False)
    assert seats.visitor(tmp_path, "by hand") == "by hand"
    monkeypatch.setenv("QUERY_STRING", f"theme=dark&token={known.tokens['Ada']}")
    assert seats.visitor(tmp_path, "by hand") == "Ada"
    for query in ("", "token=", "token=guess", "token=%C3%BC", "reviewer=Ada"):
        monkeypatch.setenv("QUERY_STRING", query)
        with pytest.raises(PrerequisiteError, match="nobody's"):
            seats.visitor(tmp_path)


@pytest.mark.parametrize("name", ["", " ", " Ada", "...", "lead"])
def test_a_name_that_is_no_reviewers_is_refused(tmp_path, name):
    with pytest.raises(ParameterError, match="cannot be a reviewer"):
        seats.prepare(tmp_path, [name])
    assert seats.read(tmp_path) is None
