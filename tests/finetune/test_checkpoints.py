"""A training that is killed goes on to the same adapter; what is damaged or of another training is not used."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from toys import TINY, names_in, nurses

from arislab import finetune
from arislab.errors import TrainingError
from arislab.finetune import checkpoints, children, ranks
from arislab.system import processes

DYING = Path(__file__).with_name("dying.py")
TIMED = ("seconds", "resumed", "model_path")


def dying(monkeypatch, place, n, steps):
    """Have the training processes killed when they come to a place."""

    monkeypatch.setattr(
        ranks, "command", lambda spec, _: [sys.executable, str(DYING), place, str(n), str(steps), str(spec)]
    )


@pytest.fixture(scope="module")
def wavering(tmp_path_factory):
    """The tiny model with dropout: each step draws random numbers."""
    folder = tmp_path_factory.mktemp("base") / "wavering"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


@pytest.mark.slow
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
        ("within a step", 4, [2]),
        ("while writing", 2, [2, 4]),
        ("before the checkpoint", 2, [4, 6]),
        ("within a step", 6, [8, 10]),  # the end of the second epoch
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
    assert rows["resumed"].to_list() == [6]
    assert rows.drop(TIMED).equals(calm.drop(TIMED))
    assert names_in(models) == sorted([Path(rows["model_path"][0]).name, Path(rows["model_path"][0]).name + ".log"])


def test_a_training_that_has_ended_is_not_done_again_before_it_is_settled(tmp_path, monkeypatch):
    settings = finetune.Settings(
        base_model="tiny", folder=tmp_path / "models", name="toy", num_train_epochs=2, batch_size=4,
        checkpoint_steps=2, checkpoint_minutes=0, until_settled=True,
    )  # fmt: skip
    sets, steps = {"a": nurses(range(18))}, tmp_path / "steps"  # 10 steps
    rows = finetune.train(sets, None, settings)
    dying(monkeypatch, "nowhere", 1, steps)
    again = finetune.train(sets, None, settings)  # as after a kill before anybody wrote the row
    assert steps.stat().st_size == 2, "those after the last checkpoint"
    assert again["resumed"].to_list() == [1]
    assert again.drop(TIMED).equals(rows.drop(TIMED))
    finetune.settle(rows.with_columns(id=pl.lit("ft-another")), settings)
    assert (settings.folder / checkpoints.FOLDER).is_dir()
    finetune.settle(again, settings)
    name = Path(rows["model_path"][0]).name
    assert names_in(settings.folder) == sorted([name, f"{name}.log"])


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A training with early stopping that was killed after its checkpoints of steps 8 and 10: its models, and how."""
    models, steps = tmp_path_factory.mktemp("interrupted"), tmp_path_factory.mktemp("count") / "steps"
    how = {
        "base_model": "tiny", "name": "toy", "num_train_epochs": 10, "batch_size": 3, "learning_rate": 0.02,
        "early_stopping": 3, "checkpoint_steps": 2, "checkpoint_minutes": 0,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, "within a step", 12, steps)
        with pytest.raises(TrainingError, match="it goes on from step 10"):
            finetune.train({"a": nurses(range(6))}, nurses(range(100, 104)), folder=models, **how)
    return models, how


@pytest.mark.slow
def test_early_stopping_keeps_the_weights_of_the_lowest_loss_through_a_kill_too(interrupted, tmp_path):
    models, how = interrupted
    shutil.copytree(models, again := tmp_path / "models")
    sets, held_out = {"a": nurses(range(6))}, nurses(range(100, 104))
    calm, rows = (finetune.train(sets, held_out, folder=folder, **how) for folder in (tmp_path / "calm", again))
    assert rows["resumed"].to_list() == [1]
    assert rows.drop(TIMED).equals(calm.drop(TIMED))
    curve = finetune.losses(rows).drop_nulls("eval_loss").filter(pl.col("step") > 0)
    best = curve.sort("eval_loss").row(0, named=True)
    stopped = json.loads(rows["hyperparameters"][0])["early_stop"]
    assert stopped == {"kept_step": best["step"], "last_step": curve["step"][-1]}
    assert rows["eval_loss"][0] == best["eval_loss"]
    manifest = json.loads((Path(rows["model_path"][0]) / "manifest.json").read_text())
    assert manifest["hyperparameters"]["early_stop"] == stopped
    assert stopped == {"kept_step": 8, "last_step": 14}, "the lowest loss is at 8; 10, 12 and 14 are higher"


def test_a_checkpoint_of_which_any_file_is_damaged_is_skipped_and_the_one_before_it_is_used(
    interrupted, tmp_path, caplog
):
    (kept,) = (interrupted[0] / checkpoints.FOLDER).iterdir()
    identity = json.loads((kept / "step-00000010/complete.json").read_text())["identity"]
    names = [path.relative_to(kept) for path in (kept / "step-00000010").rglob("*") if path.is_file()]
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "best.safetensors"} < {
        name.name for name in names
    }
    for name in names:
        for harm in (cut, flip, Path.unlink):
            shutil.copytree(kept, copy := tmp_path / "copy")
            harm(copy / name)
            assert checkpoints.Checkpoints(copy, identity, steps=2, minutes=0).newest() == copy / "step-00000008"
            assert not (copy / "step-00000010").exists()
            shutil.rmtree(copy)
    assert len(caplog.records) == 3 * len(names)
    assert all("step-00000010 is not used" in record.getMessage() for record in caplog.records)
    shutil.copytree(kept, copy := tmp_path / "copy")
    (copy / "step-00000010/optimizer.bin").write_bytes(b"more")  # a file that nobody wrote
    assert checkpoints.Checkpoints(copy, identity, steps=2, minutes=0).newest() == copy / "step-00000008"
    assert checkpoints.Checkpoints(copy, "0" * 64, steps=2, minutes=0).newest() is None, "of another training"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_of_another_training_nothing_is_taken(interrupted, tmp_path):
    """One answer is another: it starts anew."""
    models, how = interrupted
    shutil.copytree(models, again := tmp_path / "models")
    changed = nurses(range(6)).with_columns(output=pl.col("output").replace(nurses([3])["output"][0], "{}"))
    rows = finetune.train({"a": changed}, nurses(range(100, 104)), folder=again, **how)
    assert rows["resumed"].to_list() == [0]
    assert len(list((again / checkpoints.FOLDER).iterdir())) == 1, "of the first training, which may still go on"
    old = next((again / checkpoints.FOLDER).iterdir())
    os.utime(old, (0, 0))
    checkpoints.discard(again / checkpoints.FOLDER / "none")
    assert not (again / checkpoints.FOLDER).exists(), "nobody went on with it for a month"


def test_a_checkpoint_holds_no_pickled_arguments(interrupted):
    (kept,) = (interrupted[0] / checkpoints.FOLDER).iterdir()
    for path in kept.rglob("*"):  # the torch files are read with weights_only
        assert path.is_dir() or path.suffix in ("", ".json", ".safetensors", ".pt", ".pth")
    assert not list(kept.rglob("training_args.bin"))


def test_folders_of_trainings_whose_parents_were_killed_are_removed_and_others_are_not(tmp_path):
    gone = {"pid": 2**22 + 1, "start_ticks": 1, "boot_id": "another", "hostname": os.uname().nodename}
    for name, parent in ((".gone", gone), (".here", processes.identity(os.getpid())), (".old", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(json.dumps({"parent": parent}))
    children.sweep(tmp_path)
    assert names_in(tmp_path) == [".here", ".old"]


def test_the_seconds_of_earlier_attempts_are_those_up_to_their_last_steps(tmp_path):
    for n, (text, last) in enumerate(
        [('{"began": 1000, "from_step": 0}', 1010), ("{", 1500), ('{"began": 2000, "from_step": 4}', 2005)], 1
    ):
        (tmp_path / f"attempt-{n:06d}").write_text(text)
        os.utime(tmp_path / f"attempt-{n:06d}", (last, last))
    trainer = SimpleNamespace(add_callback=lambda _: None, train=lambda **_: None)
    mine = checkpoints.Checkpoints(tmp_path, "0", steps=1, minutes=0, began=3000)
    mine.train(trainer)
    assert (mine.seconds_before, mine.resumed) == (15, 1)
    assert json.loads((tmp_path / "attempt-000004").read_text()) == {"began": 3000, "from_step": 0}
