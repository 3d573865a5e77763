"""A foreign record is code: it runs only if this user signed it, as it was signed, or says that it is trusted."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from arislab.runs import signing


def test_the_key_is_made_once_and_only_its_owner_reads_it(home):
    signature = signing.sign("a" * 64)
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert signing.sign("a" * 64) == signature
    assert signing.problem(signature, "a" * 64) is None
    assert (home / "key").read_text().strip() not in json.dumps(signature)
    assert [path.name for path in home.iterdir()] == ["key"]


def test_two_first_runs_at_once_get_one_key(home):
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda _: json.dumps(signing.sign("b" * 64)), range(24)))
    assert len(set(signed)) == 1


@pytest.mark.parametrize("variable", ["ARISLAB_HOME", "XDG_DATA_HOME", "HOME"])
def test_the_key_lies_where_the_environment_says(tmp_path, monkeypatch, variable):
    for name in ("ARISLAB_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    below = {"ARISLAB_HOME": "", "XDG_DATA_HOME": "arislab", "HOME": ".local/share/arislab"}[variable]
    assert signing.home() == tmp_path / below


def test_a_home_that_cannot_be_written_leaves_the_record_unsigned_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not signed"):
        assert signing.sign("c" * 64) is None


def test_a_signature_says_what_is_wrong_with_it(home, tmp_path, monkeypatch):
    signature = signing.sign("d" * 64)
    assert signing.problem(None, "d" * 64) == "it is not signed"
    assert "changed after it was signed" in signing.problem(signature, "e" * 64)
    assert "changed after it was signed" in signing.problem(signature | {"hmac": "é"}, "d" * 64)
    monkeypatch.setenv("ARISLAB_HOME", str(tmp_path / "other"))
    assert "no key" in signing.problem(signature, "d" * 64)
    signing.sign("d" * 64)
    assert "another key" in signing.problem(signature, "d" * 64)
