"""A root is a folder of any name that tables can lie in; any other is refused before a folder is made."""

import os
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import FUZZ, people

from arislab.errors import PrerequisiteError
from arislab.lake import Lake
from arislab.system import paths

ODD = [
    "two words", " before", "after ", "ümläut", "漢字 🙂", "e\u0301", "qu'ote", 'dq"uote', "100%", "50% off",
    "%zz", "#7", "~", "~me", "dot.", "..x", "$HOME;&", "{a}", "(b)", "a=b,c", "d:e@f", "-p", "--root", "+",
    "!", "`x`", "<y>", "a\u00a0b", "\u202e", "x" * 200,
]  # fmt: skip
REFUSED = ["[a]", "b]", "c\\d", "e^f", "g|h", "i*", "j?", "k\nl", "m\tn", "\x7f", "\x1b[31m", "%20", "o%2Fp", "%e9"]
NAMES = st.one_of(
    st.sampled_from(ODD + REFUSED),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20),
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 250)


def all_there_is_to_do(lake, folder):
    """Write, read, replace, merge, ask, compact and export; every row counted."""
    table = lake["candidates"].append(people(3)).upsert(people(4))
    table.replace(people(2).with_columns(category=pl.lit("it's")), where={"category": "it's"})
    assert table.read(where={"category": "it's"}).height == 2
    assert table.scan().collect().height == table.rows == table.read(version=1).height == 4
    assert lake.sql("select count(*) n from candidates").item() == 4
    lake.compact()
    assert pl.read_csv(lake.export("candidates", folder / "out.csv"), glob=False).height == 4
    table.link(Lake(folder / "other" / "data" / "lake"), version=0)
    assert Lake(folder / "other" / "data" / "lake")["candidates"].rows == 3


@pytest.mark.slow
@given(name=NAMES)
@settings(max_examples=max(12, FUZZ // 4), deadline=None, suppress_health_check=list(HealthCheck))
def test_a_root_of_any_name_works_or_is_refused_before_anything_is_made(name, tmp_path_factory):
    base = tmp_path_factory.mktemp("roots")
    is_refused = paths._UNUSABLE.search(name) is not None
    try:
        if is_refused:
            with pytest.raises(PrerequisiteError, match="nothing was made"):
                paths.enter(base / name)
            with pytest.raises(PrerequisiteError, match="nothing was made"):
                Lake(base / name / "data" / "lake")
            assert list(base.iterdir()) == []
        else:
            root = paths.enter(base / name)
            assert root == base / name
            all_there_is_to_do(Lake(), root)
            assert [path.name for path in base.iterdir()] == [name]
    finally:
        os.environ.pop("ARISLAB_ROOT", None)
        shutil.rmtree(base)


@pytest.mark.parametrize("name", ODD)
def test_each_of_these_names_works(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / name))
    all_there_is_to_do(Lake(), tmp_path / name)


@pytest.mark.parametrize("name", REFUSED)
def test_each_of_these_names_is_refused_with_the_character_that_is_in_the_way(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ARISLAB_ROOT", str(tmp_path / name))
    with pytest.raises(PrerequisiteError, match="with which Delta Lake cannot store a table") as caught:
        Lake()
    assert repr(paths._UNUSABLE.search(name)[0]) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["s3://bucket/lake", "gs://b", "abfss://c@a/x", "file:///tmp/x", "https://host/x", "hdfs:/x", "s3:/bucket"]
)
def test_a_url_is_refused_and_makes_no_folder_of_its_name(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (lambda: paths.enter(url), lambda: paths.enter(Path(url))):
        with pytest.raises(PrerequisiteError, match="is a URL; a root is a folder on this machine so far"):
            act()
    if url in ("s3://bucket/lake", "abfss://c@a/x"):
        assert Lake(url).path == url
    else:
        with pytest.raises(PrerequisiteError, match=r"the lake's URL got .*, none that a lake can have\. Give s3://"):
            Lake(url)
    monkeypatch.setenv("ARISLAB_ROOT", url)
    with pytest.raises(PrerequisiteError, match="ARISLAB_ROOT"):
        paths.root()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        "s3://bucket/lab?X-Amz-Signature=planted-key",
        "s3://planted-key:planted-key@bucket/lab",
        "abfss://c:planted-key@a.dfs.core.windows.net/lab",
        "az://container/lab#planted-key",
        "s3://bucket/../lab",
        "s3://bucket/a b",
        "s3://bucket",
        "data/lake",
        "ftp://bucket/lab",
    ],
)
def test_what_is_no_url_of_a_lake_is_one_message_without_what_may_be_a_key(given, monkeypatch):
    with pytest.raises(PrerequisiteError, match=r"--lake got .*Nothing was made") as caught:
        paths.enter_lake(given)
    assert "planted-key" not in str(caught.value)
    monkeypatch.setenv("ARISLAB_LAKE", given)
    with pytest.raises(PrerequisiteError, match="ARISLAB_LAKE got"):
        Lake()


def test_the_lake_is_where_the_environment_says_and_what_it_has_no_place_for_stays_in_the_root(root, monkeypatch):
    monkeypatch.delenv("ARISLAB_LAKE", raising=False)
    assert paths.lake() == Lake().path == str(root / "data" / "lake")
    monkeypatch.setenv("ARISLAB_LAKE", "gs://bucket/lab/")
    lake = Lake()
    assert (lake.path, paths.lake(), paths.as_url(lake.path)) == ("gs://bucket/lab",) * 3
    assert {lake.models, lake.batches, lake.exports} == {root / "data" / n for n in ("models", "batches", "exports")}
    assert lake.review.parent == root / "data" / "review"
    # names that differ by a letter that a folder would not show
    assert Lake("gs://bucket/lab_b").review != Lake("gs://bucket/lab/b").review
    assert Lake("gs://bucket/lab", root=root / "other").data == root / "other" / "data"


def test_a_root_that_is_too_long_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(PrerequisiteError, match="bytes long"):
        paths.enter(tmp_path / "/".join(["d"] * 1_750))
    with pytest.raises(PrerequisiteError, match="File name too long"):
        paths.enter(tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder_and_a_name_with_one_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert paths.usable("~/work", "--root") == tmp_path / "home" / "work"
    assert paths.usable("~", "--root") == tmp_path / "home"
    assert paths.usable("~work", "--root") == tmp_path / "~work"


def test_a_link_to_a_folder_with_another_name_is_judged_by_where_it_leads(tmp_path):
    (tmp_path / "[a]").mkdir()
    (tmp_path / "plain").symlink_to(tmp_path / "[a]")
    with pytest.raises(PrerequisiteError, match="cannot store a table"):
        paths.enter(tmp_path / "plain")
