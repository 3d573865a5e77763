"""The registry: who may be promoted, by whose word, and that a folder is what was registered."""

import hashlib
import json
import multiprocessing
import os
import shutil

import polars as pl
import pytest
from toys import BASE, version

from arislab import models
from arislab.errors import RegistryError
from arislab.lake import Lake
from arislab.models import events

PASS = {"verdict": "promote", "reason": "finetuned beats baseline"}


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "data" / "lake", run_id="run-1")


@pytest.fixture
def registry(lake):
    rows = [version(lake.models, "one"), version(lake.models, "two"), version(lake.models, "c", arm="control")]
    found = models.Registry(lake, actor="ada")
    found.register(pl.DataFrame(rows))
    return found


def names(registry):
    return registry.states()["version"].sort().to_list()


def one_and_two(registry):
    curated = registry.states().filter(arm="curated").sort("created_at", "version")["version"].to_list()
    one = f"fam-curated-{hashlib.sha256(b'one').hexdigest()[:12]}"
    return one, next(name for name in curated if name != one)


def promoted(registry, name, **more):
    registry.judge(name, PASS, evaluation="eval-1")
    return registry.promote(name, **more)


def test_a_version_is_registered_once_and_a_control_is_none_for_promotion(registry, lake):
    states = registry.states()
    assert sorted(states.select("arm", "state").rows()) == [
        ("control", "control"),
        ("curated", "candidate"),
        ("curated", "candidate"),
    ]
    again = pl.DataFrame([{"id": "x", "name": "fam", "arm": "curated", "base_model": "base", "data_version": None}])
    one, _ = one_and_two(registry)
    sha256 = states.filter(version=one)["adapter_sha256"][0]
    assert registry.register(again.with_columns(adapter_sha256=pl.lit(sha256), model_path=pl.lit(one))).height == 0
    control = states.filter(state="control")["version"][0]
    registry.judge(control, PASS, evaluation="eval-1")
    with pytest.raises(RegistryError, match="is a control"):
        registry.promote(control)


def test_nobody_is_promoted_without_a_gate_that_lets_exactly_these_weights_pass(registry):
    one, two = one_and_two(registry)
    with pytest.raises(RegistryError, match="no gate has judged these weights"):
        registry.promote(one)
    registry.judge(two, PASS, evaluation="eval-1")  # of another sha: not this one's
    with pytest.raises(RegistryError, match="no gate has judged these weights"):
        registry.promote(one)
    registry.judge(one, {"verdict": "hold", "reason": "finetuned is below baseline"}, evaluation="eval-2")
    with pytest.raises(RegistryError, match="hold: finetuned is below baseline"):
        registry.promote(one)
    registry.judge(one, PASS, evaluation="eval-3")
    registry.judge(one, {"verdict": "insufficient evidence", "reason": "few"}, evaluation="eval-4")
    with pytest.raises(RegistryError, match="insufficient evidence"):  # the newest gate counts
        registry.promote(one)
    assert registry.named("fam") is None
    assert not (registry.events()["event"] == "alias").any()


def test_by_force_needs_a_reason_and_is_told_for_ever(registry):
    one, two = one_and_two(registry)
    with pytest.raises(RegistryError, match="needs a reason"):
        registry.promote(one, is_forced=True)
    registry.promote(one, is_forced=True, reason="a demo for the board")
    promoted(registry, two)
    promoted(registry, one)
    state = registry.states().filter(version=one).row(0, named=True)
    assert (state["state"], state["is_forced"]) == ("champion", True)
    forced = registry.events().filter(is_forced=True)
    assert forced.select("version", "reason", "actor").rows() == [(one, "a demo for the board", "ada")]


def test_an_alias_is_its_newest_event_and_goes_back_the_way_it_came(registry, lake):
    one, two = one_and_two(registry)
    three = version(lake.models, "three")["model_path"]
    sha256 = json.loads((lake.models / three / "manifest.json").read_text())["files"]["adapter_model.safetensors"]
    row = {"id": "x", "name": "fam", "arm": "curated", "base_model": "base", "data_version": None}
    registry.register(pl.DataFrame([row | {"adapter_sha256": sha256, "model_path": three}]))
    for name in (one, two, three):
        promoted(registry, name)
    assert registry.promote(three).height == 0, "it is the champion already"
    states = dict(registry.states().select("version", "state").rows())
    assert (states[one], states[two], states[three]) == ("candidate", "candidate", "champion")
    back = registry.roll_back("fam", reason="slow")
    assert (back["version"], back["previous"], back["reason"]) == (two, three, "slow")
    assert registry.roll_back("fam")["version"] == one, "not to the one that was just left"
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.roll_back("fam")
    assert registry.named("fam") == one
    promoted(registry, three)
    assert registry.roll_back("fam")["version"] == one


def test_a_retired_version_is_neither_promoted_nor_gone_back_to(registry):
    one, two = one_and_two(registry)
    promoted(registry, one)
    promoted(registry, two)
    with pytest.raises(RegistryError, match="fam@champion"):
        registry.retire(two, reason="old")
    with pytest.raises(RegistryError, match="needs a reason"):
        registry.retire(one, reason=" ")
    assert registry.retire(one, reason="learned from somebody who wants to be forgotten").height == 1
    assert registry.retire(one, reason="again").height == 0
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.roll_back("fam")
    with pytest.raises(RegistryError, match="retired"):
        registry.promote(one, is_forced=True, reason="but")
    with pytest.raises(RegistryError, match="did you mean 'fam-"):
        registry.retire(one[:-1], reason="a typing error")


def _promote(path, name, expected, started, results):
    registry = models.Registry(Lake(path, run_id=f"run-{os.getpid()}"), actor=str(os.getpid()))
    started.wait()
    try:
        registry.promote(name, expected=expected)
        results.put((name, "won"))
    except RegistryError as error:
        results.put((name, str(error)))


def test_of_two_who_promote_at_once_one_wins_and_the_other_is_told(registry, lake):
    one, two = one_and_two(registry)
    for name in (one, two):
        registry.judge(name, PASS, evaluation="eval-1")
    context = multiprocessing.get_context("spawn")  # never fork beside polars
    started, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=_promote, args=(lake.path, n, None, started, results)) for n in (one, two)]
    for process in both:
        process.start()
    said = dict(results.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    winner = registry.named("fam")
    loser = one if winner == two else two
    assert said[winner] == "won"
    assert f"names {winner} now" in said[loser]
    assert "named none when this began" in said[loser]
    assert registry.events().filter(event="alias")["version"].to_list() == [winner]


def _changed(folder):
    (folder / "adapter_config.json").write_text("{ }")


def _missing(folder):
    (folder / "adapter_config.json").unlink()


def _manifest_too(folder):
    path = folder / "adapter_config.json"
    path.write_text("{ }")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["adapter_config.json"] = hashlib.sha256(b"{ }").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _gone(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_changed, "adapter_config.json is another file than was trained"),
        (_missing, "adapter_config.json is missing"),
        (_manifest_too, "manifest.json is another file than was registered"),
        (_gone, "is gone"),
    ],
)
def test_a_folder_that_is_not_what_was_registered_is_refused_with_one_message(registry, lake, harm, said):
    one, _ = one_and_two(registry)
    registry.judge(one, PASS, evaluation="eval-1")
    harm(lake.models / one)
    with pytest.raises(RegistryError, match=said):
        registry.promote(one)
    assert registry.named("fam") is None


def test_a_renamed_folder_and_another_base_are_refused(registry, lake):
    one, two = one_and_two(registry)
    assert registry.check(one, base=BASE)["version"] == one
    with pytest.raises(RegistryError, match="of the same shape it would load"):
        registry.check(one, base={"name": "other", "sha256": "c" * 64})
    shutil.rmtree(lake.models / one)
    (lake.models / two).rename(lake.models / one)
    with pytest.raises(RegistryError, match="is not the folder of its weights"):
        registry.check(one)


def test_a_way_back_never_ends_where_it_began(registry):
    one, two = one_and_two(registry)
    for name in (one, two, one):
        promoted(registry, name)
    registry.retire(two, reason="nonsense")
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.roll_back("fam")


def test_a_gate_overwrites_nobody_and_brings_back_nothing_that_was_left(registry):
    one, two = one_and_two(registry)
    passed = {"evaluation": "eval-9"}
    assert "is not promoted: hold" in registry.follow_gate(one, PASS | {"verdict": "hold"}, expected=None, **passed)
    assert "(before: none)" in registry.follow_gate(one, PASS, expected=None, **passed)
    promoted(registry, two)  # by somebody, while an evaluation of the first one runs again
    with pytest.raises(RegistryError, match=f"named {one} when this began"):
        registry.follow_gate(one, PASS, expected=one, **passed)
    assert registry.named("fam") == two
    registry.roll_back("fam", reason="answers nonsense")
    said = registry.follow_gate(two, PASS, expected=one, **passed)
    assert "ada went back from it (answers nonsense)" in said
    assert registry.named("fam") == one
    registry.promote(two, reason="mended")
    assert registry.named("fam") == two


@pytest.mark.parametrize("alias", ["", "a b", "x@y", "retired", "control"])
def test_an_alias_that_no_server_takes_is_refused(registry, alias):
    one, _ = one_and_two(registry)
    with pytest.raises(RegistryError, match="an alias must be a word"):
        promoted(registry, one, alias=alias)
    assert not registry.events()["alias"].count()


def test_a_version_with_two_aliases_shows_both_and_is_retired_under_neither(registry):
    one, _ = one_and_two(registry)
    promoted(registry, one)
    registry.promote(one, alias="staging")
    assert registry.states().filter(version=one)["state"].item() == "champion, staging"
    with pytest.raises(RegistryError, match="champion, staging"):
        registry.retire(one, reason="old")


def test_versions_of_an_earlier_lake_keep_what_they_were(lake):
    row = {"name": "fam", "base_model": "b", "adapter_sha256": "x", "gate": None}
    lake["models"].append(pl.DataFrame([row | {"version": "fam-0", "alias": "champion"}]))
    lake["models"].append(
        pl.DataFrame(
            [
                row | {"version": "fam-1", "alias": "candidate"},
                row | {"version": "fam-1", "alias": "champion", "gate": json.dumps(PASS)},
                row | {"version": "fam-2", "alias": "control"},
            ]
        )
    )
    lake["models"].append(pl.DataFrame([row | {"version": "fam-0", "alias": "retired"}]))
    registry = models.Registry(lake)
    assert sorted(registry.states().select("version", "state", "verdict").rows()) == [
        ("fam-0", "candidate", None),
        ("fam-1", "champion", "promote"),
        ("fam-2", "control", None),
    ]
    assert registry.named("fam") == "fam-1"
    assert events.before(registry.events(), "fam") == "fam-0", "retired said only that another one became champion"
