"""The whole way on a lake in an object store: from a file to a verdict, the store killed and started again between."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
import stores
from toys import CHECKOUT, arislab_process

from arislab.lake import Lake, check
from arislab.tiny.candidates import compose

SHORT = {
    "generate": {"n_candidates": 60, "n_dry_run": 8},
    "curate": {"keep_fraction": 0.5},
    "icl": {"k": 2, "budget": 60, "pool_size": 8, "n_search": 20, "n_holdout": 20, "max_tokens": 48},
    "finetune": {"num_train_epochs": 1, "n_validation": 5, "max_tokens": 48},
    "evaluate": {"n_test": 20, "max_tokens": 48},
}
"""Phase to parameters: as few rows as each takes."""
pytestmark = pytest.mark.slow


def words(phase):
    given = [("-p", name, str(value)) for name, value in SHORT[phase].items()]
    return ["run", phase, *(word for one in given for word in one)]


@pytest.fixture(scope="module")
def place(heedful, tmp_path_factory):
    """A root without tables, and the front of the store that has them: a file of candidates was imported."""
    # the second commit holds the answers that came after those of the dry run
    second = f"training_data_raw/_delta_log/{1:020}.json"
    root, front = tmp_path_factory.mktemp("afar"), stores.Front(heedful["AWS_ENDPOINT_URL"], dies_at=second)
    url = f"s3://{stores.BUCKET}/whole-way"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**heedful, "AWS_ENDPOINT_URL": front.url, "ARISLAB_LAKE": url}.items():
            patch.setenv(name, value)
        people = compose(125, seed=1)
        splits = ["train"] * 60 + ["validation"] * 45 + ["test"] * 20
        facts = people.select("profile", id="candidate_id", group="candidate_id").with_columns(split=pl.Series(splits))
        lines = [json.loads(one.pop("profile")) | one for one in facts.to_dicts()]
        file = root / "people.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = ("--as", "candidates", "--id", "id", "--group", "group", "--split", "split")
        assert "125 candidates = 125 new" in arislab_process("import", file, *options, root=root)
        yield root, front
        front.kill()


def test_the_whole_way_on_a_store_that_is_killed_and_started_again_is_equal_when_it_is_run_again(place):
    root, front = place
    command = [sys.executable, "-m", "arislab", *words("generate"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=os.environ, timeout=240)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot use the lake s3://bucket/whole-way: the store does not answer" in done.stderr
    front.start()
    for phase in SHORT:
        printed = arislab_process(*words(phase), root=root)
        if phase == "generate":
            why = "what was answered before is in the folder: it is not asked again"
            assert "seconds of waiting for answers  0.0" in printed, why
            assert f"arislab run curate --root {root} --lake s3://bucket/whole-way" in printed
            rows = Lake(root=root)["training_data_raw"].read()
            assert (rows.height, rows["custom_id"].n_unique()) == (60, 60)
        assert "V0 equal" in arislab_process("verify", phase, "--level", "0", root=root)
    assert sorted(path.name for path in (root / "data").iterdir()) == ["batches", "exports", "models"]
    for phase, level in {"curate": "V1", "evaluate": "V2"}.items():
        assert f"{level} equal" in arislab_process("verify", phase, root=root)
    states = [str(state) for state in check.examine(Lake(root=root))]
    assert len(states) >= 13
    assert all("whole" in state for state in states), states
