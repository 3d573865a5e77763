"""A training process that dies is reported, and none outlives its parent."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from toys import TINY, names_in, nurses

from arislab import finetune
from arislab.errors import TrainingError
from arislab.finetune import children


def test_a_training_process_that_dies_is_reported_with_the_end_of_its_log(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in TINY.iterdir():
        if path.suffix != ".safetensors":
            (broken / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TrainingError, match=r"(?s)training of set 'a' ended with exit code 1 .*model\.safetensors"):
        finetune.train({"a": nurses(range(4))}, None, base_model=broken, folder=tmp_path / "models", name="toy")
    assert names_in(tmp_path / "models") == ["toy-a.failed.log"]


ENDLESS = """
import sys, polars as pl
from arislab import finetune
examples = pl.read_parquet(sys.argv[1])
finetune.train({"a": examples}, None, base_model="tiny", folder=sys.argv[2], num_train_epochs=10_000)
"""


@pytest.mark.slow
def test_a_training_process_ends_when_its_parent_is_killed(tmp_path):
    nurses(range(8)).write_parquet(tmp_path / "examples.parquet")
    models = tmp_path / "models"
    command = [sys.executable, "-c", ENDLESS, str(tmp_path / "examples.parquet"), str(models)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        progress = wait_for(lambda: next(models.glob(".adapter-a-*/progress.jsonl"), None))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert wait_for(
        lambda: "the process that started this training is gone" in (progress.parent / "log.txt").read_text()
    )


def wait_for(event, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := event():
            return result
        time.sleep(0.1)
    raise AssertionError(f"nothing within {seconds} s")


@pytest.mark.slow
def test_a_training_whose_fork_server_is_killed_goes_on_to_the_same_adapter(tmp_path):
    rows, how = {"a": nurses(range(24))}, {"base_model": "tiny", "num_train_epochs": 6, "batch_size": 2}
    how |= {"checkpoint_steps": 5, "checkpoint_minutes": 0}
    whole = finetune.train(rows, None, folder=tmp_path / "whole", **how)

    def kill():
        wait_for(lambda: any((tmp_path / "killed").glob(".checkpoints/*/step-*")))
        children._FORKS._pythons[-1]._process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TrainingError, match=r"set 'a' (ran out of memory|ended with exit code)"):
        finetune.train(rows, None, folder=tmp_path / "killed", **how)
    killer.join()
    again = finetune.train(rows, None, folder=tmp_path / "killed", **how)
    assert again["resumed"].to_list() == [1]
    assert again["adapter_sha256"].to_list() == whole["adapter_sha256"].to_list()
