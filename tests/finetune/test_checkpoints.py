"""A training that is killed goes on to the same adapter; what is damaged or of another training is not used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import TINY, names_in, nurses

from arislab import finetune
from arislab.errors import TrainingError
from arislab.finetune import checkpoints, children

DYING = Path(__file__).with_name("dying.py")
POPEN = subprocess.Popen
TIMED = ("seconds", "resumed", "model_path")


def dying(monkeypatch, place, n, steps):
    """Have the training processes killed when they come to a place."""

    monkeypatch.setattr(
        children.subprocess,
        "Popen",
        lambda command, **named: POPEN([sys.executable, DYING, place, str(n), steps, command[-1]], **named),
    )


@pytest.fixture(scope="module")
def wavering(tmp_path_factory):
    """The tiny model with dropout: each step draws random numbers."""
    folder = tmp_path_factory.mktemp("base") / "wavering"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


def test_a_training_that_is_killed_again_and_again_goes_on_to_the_adapter_of_one_that_was_not(
    wavering, tmp_path, monkeypatch
):
    how = {
        "base_model": wavering, "name": "toy", "num_train_epochs": 3, "batch_size": 4, "gradient_accumulation_steps": 2,
        "checkpoint_steps": 2, "checkpoint_minutes": 0,
    }  # fmt: skip
    sets, held_out = {"a": nurses(range(18))}, nurses(range(100, 104))  # 15 steps, 5 an epoch
    calm = finetune.train(sets, held_out, folder=tmp_path / "calm", **how)
    assert calm["resumed"].to_list() == [0]
    models, steps, before, done = tmp_path / "models", tmp_path / "steps", 0, 0
    for place, n, kept in (
        ("within a step", 2, []),
        ("within a step", 4, [2]),
        ("while writing", 2, [2, 4]),
        ("before the checkpoint", 2, [4, 6]),
        ("after the checkpoint", 1, [4, 6, 8]),
        ("within a step", 4, [8, 10]),  # the end of the second epoch
        ("before the adapter", 1, [12, 14]),
        ("after the adapter", 1, [12, 14]),
    ):
        dying(monkeypatch, place, n, steps)
        with pytest.raises(TrainingError, match=r"ran out of memory at step .* it was killed"):
            finetune.train(sets, held_out, folder=models, **how)
        (folder,) = (models / checkpoints.FOLDER).iterdir()
        assert checkpoints.steps(folder) == kept, place
        now = [name for name in names_in(models) if not name.startswith("toy-a-")]
        assert now == [checkpoints.FOLDER, "toy-a.failed.log"]
        newest = max(kept, default=0)
        repeated = steps.stat().st_size - done - (newest - before)
        assert 0 <= repeated <= 2, place
        before, done = newest, steps.stat().st_size
    monkeypatch.undo()
    rows = finetune.train(sets, held_out, folder=models, **how)
    assert rows["resumed"].to_list() == [7]
    assert rows.drop(TIMED).equals(calm.drop(TIMED))
    assert rows["seconds"][0] > calm["seconds"][0]
    assert names_in(models) == sorted([Path(rows["model_path"][0]).name, Path(rows["model_path"][0]).name + ".log"])
