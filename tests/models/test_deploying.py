"""The canary: what a server must show before clients get a version, and what it may not get away with."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial

import polars as pl
import pytest

from arislab import deploying
from arislab.errors import RegistryError

VERSION = "fam-curated-1"


def compared(*, served=("a", "b", "c"), base=("a", "b", "x"), by=VERSION, logprobs=(-0.5, -0.7)):
    """Three prompts of which the reference is a, b, c; with the probability of each first token, served and base."""
    texts = {"reference": ("a", "b", "c"), "served": served, "base": base}
    first = {"reference": logprobs[0], "served": logprobs[0], "base": logprobs[1]}
    requests, answers = {}, []
    for what, each in texts.items():
        ids = [f"{what}-{i}" for i in range(3)]
        requests[what] = pl.DataFrame({"custom_id": ids, "candidate_id": [f"c{i}" for i in range(3)]})
        for name, text in zip(ids, each, strict=True):
            known = None if first[what] is None else json.dumps({"t": first[what]})
            row = {"custom_id": name, "status": "ok", "llm_output": text, "first_token_logprobs": known}
            answers.append(row | {"model_returned": "base" if what == "base" else by})
    frame = pl.DataFrame(answers, infer_schema_length=None).filter(pl.col("llm_output").is_not_null())
    return deploying.canary(requests, frame)


@pytest.mark.parametrize(
    ("given", "verdict", "why"),
    [
        ({}, "passed", "3 of 3 answers are those of the reference, 1 differ from the base's, 3 have other"),
        ({"base": ("a", "b", "c")}, "failed", "no answer differs from the base's"),
        ({"served": ("a", "b", "x")}, "failed", "2 of 3 answers are those of the reference"),
        ({"served": ("a", "b", None)}, "failed", "1 of 3 prompts have no answer"),
        ({"by": "fam-curated-0"}, "failed", "3 answers are by 'fam-curated-0'"),
        ({"logprobs": (-0.5, -0.5)}, "failed", "of 3 prompts the first token has the probabilities of the base"),
        ({"logprobs": (None, None)}, "passed", "the server gives no probabilities"),
    ],
)
def test_a_canary_passes_only_with_the_version_in_force(given, verdict, why):
    said = deploying.verdict(compared(**given), VERSION)
    assert said["verdict"] == verdict
    assert why in said["reason"]
    assert json.dumps(said)


def test_another_engine_may_round_otherwise_if_that_is_allowed():
    rows = compared(served=("a", "b", "z"))
    assert deploying.verdict(rows, VERSION, min_equal=0.6)["verdict"] == "passed"
    with pytest.raises(RegistryError, match="clients get what they got before: 2 of 3"):
        deploying.require(deploying.verdict(rows, VERSION, min_equal=0.7), VERSION)


def test_an_answer_through_the_alias_is_that_of_the_version():
    rows = compared()
    answer = {"model_returned": VERSION, "llm_output": "a", "status": "ok"}
    deploying.check_answer(answer, rows, VERSION)
    for wrong in ({"model_returned": "fam-curated-0"}, {"llm_output": "b"}):
        with pytest.raises(RegistryError, match="go back with `arislab rollback`"):
            deploying.check_answer(answer | wrong, rows, VERSION)


class Fake:
    """A server whose registry moves at the n-th look."""

    def __init__(self, *names):
        self.names, self.switched = list(names), []

    def registered(self):
        return self.names.pop(0)

    def switch(self, alias, model, *, expected):
        self.switched.append((model, expected))

    def in_use(self):
        return set()


def test_a_deployment_follows_the_registry_to_the_last_moment():
    def deployed(*names):
        server = Fake(*names)
        done = deploying.switch(server, "fam@champion", "v2", expected="v1", registered=server.registered)
        return server.switched, done["previous"]

    assert deployed("v2", "v2") == ([("v2", "v1")], "v1")
    went_back, overtaken = Fake("v1"), Fake("v2", "v1")
    with pytest.raises(RegistryError, match=r"names v1 in the registry now.*Nothing was switched"):
        deploying.switch(went_back, "fam@champion", "v2", expected="v1", registered=went_back.registered)
    assert went_back.switched == []
    with pytest.raises(RegistryError, match="The server answers with that one"):
        deploying.switch(overtaken, "fam@champion", "v2", expected="v1", registered=overtaken.registered)
    assert overtaken.switched == [("v2", "v1"), ("v1", "v2")]


def test_each_canary_asks_anew():
    events = pl.DataFrame({"event": ["canary", "register"]})
    seeds = [deploying.asked_anew(*given) for given in ((events, 9, "e"), (events, 9, "f"), (events, 8, "e"))]
    seeds.append(deploying.asked_anew(pl.concat([events, events]), 9, "e"))  # rows went, as of somebody forgotten
    assert len({*seeds}) == 4
    assert deploying.asked_anew(events, 9, "e") == seeds[0]
    assert all(0 < seed < 2**32 for seed in seeds)


def event(seq, kind, version, where, *, alias="champion"):
    detail = json.dumps({"endpoint": where} if where else {})
    row = {"seq": seq, "event": kind, "name": "fam", "alias": alias, "version": version, "detail": detail}
    return row | {"created_at": datetime(2026, 1, 1, 0, 0, seq, tzinfo=UTC)}


EVENTS = pl.DataFrame([event(1, "load", "v4", "e")])
let_go = partial(deploying.to_let_go, endpoint="e", alias="fam@champion")


def test_what_a_deployment_had_loaded_that_was_killed_before_its_verdict_is_told_and_let_go():
    rows = pl.DataFrame(schema=dict.fromkeys(("endpoint", "alias", "version"), pl.String))
    assert let_go(EVENTS, rows, keep=("v5", None)) == ["v4"]
    assert let_go(EVENTS, rows, keep=("v4", None)) == []
    assert deploying.to_let_go(EVENTS, rows, endpoint="f", alias="fam@champion", keep=()) == []
    assert deploying.to_let_go(EVENTS, rows, endpoint="e", alias="fam@other", keep=()) == []
    told = {
        "under way": [("load", "v4", "e")],
        "judged": [("load", "v4", "e"), ("canary", "v4", "")],
        "another one is judged": [("load", "v4", "e"), ("canary", "v5", "")],
        "another one was deployed there": [("load", "v4", "e"), ("canary", "v5", ""), ("deploy", "v5", "e")],
        "or elsewhere": [("load", "v4", "e"), ("deploy", "v5", "f")],
        "loaded again": [("load", "v4", "e"), ("canary", "v4", ""), ("load", "v4", "e")],
    }
    left = {
        what: deploying.cut_off(pl.DataFrame([event(i, *one) for i, one in enumerate(each)]))["version"].to_list()
        for what, each in told.items()
    }
    others = [event(2, "load", "v7", "e", alias="other"), event(3, "deploy", "w1", "e") | {"name": "another"}]
    assert deploying.cut_off(pl.DataFrame([event(1, "load", "v4", "e"), *others]))["version"].to_list() == ["v4", "v7"]
    assert left == {
        "under way": ["v4"],
        "judged": [],
        "another one is judged": ["v4"],
        "another one was deployed there": [],
        "or elsewhere": ["v4"],
        "loaded again": ["v4"],
    }


def test_what_was_served_before_is_never_the_version_itself():
    rows = pl.DataFrame(
        [
            {"endpoint": where, "alias": "fam@champion", "version": version, "created_at": i}
            for i, (where, version) in enumerate([("e", "v1"), ("e", "v2"), ("f", "v9"), ("e", "v3"), ("e", "v3")])
        ]
    )
    assert deploying.previous(rows, "e", "fam@champion", "v4", now="v3") == "v3"
    assert deploying.previous(rows, "e", "fam@champion", "v3", now="v3") == "v2"
    assert deploying.previous(rows, "e", "fam@champion", "v4", now=None) is None
    assert deploying.previous(rows, "f", "fam@champion", "v9", now="v9") is None


def test_a_rollback_is_unfinished_while_a_server_that_can_say_so_serves_what_was_left():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame([{"endpoint": "e", "alias": "fam@champion", "version": "v2", "created_at": at}])
    back = {"previous": "v2"}
    events = [event(1, "alias", "v1", ""), event(2, "alias", "v2", ""), event(3, "rollback", "v1", "") | back]
    events = [{"previous": None} | one for one in events]
    of = ("fam", "champion")
    found = deploying.unfinished(rows, pl.DataFrame(events), *of)
    assert (found["version"], found["endpoints"]) == ("v1", ["e"])
    assert deploying.unfinished(rows, pl.DataFrame(events[:2]), *of) is None
    followed = pl.concat([rows, rows.with_columns(version=pl.lit("v1"), created_at=at + timedelta(seconds=4))])
    assert deploying.unfinished(followed, pl.DataFrame(events), *of) is None
    assert deploying.unfinished(rows, pl.DataFrame(events), "fam", "other") is None


def test_a_server_may_serve_what_it_was_to_switch_to_after_its_newest_row():
    at = datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    rows = pl.DataFrame([{"endpoint": "e", "alias": "fam@champion", "version": "v1", "created_at": at}])
    events = [
        event(1, "switch", "v1", "e"),  # of the deployment that wrote the row
        event(3, "switch", "v2", "e"),
        event(4, "load", "v3", "e"),
        event(5, "switch", "v4", "e", alias="other"),
        event(6, "switch", "w1", "e") | {"name": "another"},
        event(7, "switch", "v2", "f"),  # its first one
    ]
    served = deploying.may_serve(rows, pl.DataFrame(events), "fam@champion")
    assert served.rows() == [("e", "v1"), ("e", "v2"), ("f", "v2")]
    back = event(8, "rollback", "v1", "") | {"previous": "v2"}
    story = pl.DataFrame([{"previous": None} | one for one in (*events, back)])
    assert deploying.unfinished(rows, story, "fam", "champion")["endpoints"] == ["e", "f"]
    done = [rows.with_columns(endpoint=pl.lit(where), created_at=at + timedelta(seconds=9)) for where in ("e", "f")]
    assert deploying.unfinished(pl.concat([rows, *done]), story, "fam", "champion") is None


def test_a_switch_is_noted_before_it_is_done_and_only_where_it_is():
    noted = []
    for names in (("v2", "v2"), ("v1",)):
        server = Fake(*names)
        note = partial(lambda at: noted.append((*at.switched,)), server)
        try:
            deploying.switch(server, "fam@champion", "v2", expected="v1", registered=server.registered, note=note)
        except RegistryError:
            assert names == ("v1",)
    assert noted == [()], "nothing was switched when it was noted, and what is refused is not noted"


def test_what_an_endpoint_served_before_the_last_two_is_let_go():
    rows = [
        {"endpoint": where, "alias": "fam@champion", "version": version, "created_at": i}
        for i, (where, version) in enumerate([("e", "v1"), ("e", "v2"), ("f", "v9"), ("e", "v3"), ("e", "v2")])
    ]
    frame = pl.DataFrame(rows)
    assert let_go(EVENTS.head(0), frame, keep=("v2", "v3")) == ["v1"]
    assert deploying.serving(frame, "fam@champion").select("endpoint", "version").rows() == [("f", "v9"), ("e", "v2")]
    assert deploying.endpoint("http://me:secret@h:1/v1") == "http://h:1/v1"
    assert deploying.endpoint("embedded", "weights") == "embedded:weights"
