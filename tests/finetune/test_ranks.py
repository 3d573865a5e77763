"""A training in several processes, as accelerate launches them, is the training of one."""

import json
import os
import signal
import threading
import time

import polars as pl
import pytest
from toys import names_in, nurses

from arislab import finetune
from arislab.errors import ParameterError, TrainingError
from arislab.finetune import children, training, weights
from arislab.system import processes

# all rows in one batch: the sums of a step are the same, whichever process has which row
HOW = {"base_model": "tiny", "batch_size": 32, "num_train_epochs": 6, "checkpoint_steps": 2, "checkpoint_minutes": 0}


@pytest.mark.slow
def test_two_processes_train_as_one_does_also_when_one_of_them_is_killed(tmp_path):
    rows = {"a": nurses(range(32))}, nurses(range(100, 120))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}.items():
            patch.setenv(name, value)  # of a launcher that started the kernel
        alone = finetune.train(*rows, folder=tmp_path / "alone", **HOW)
    both = {"folder": tmp_path / "both", "num_processes": 2, **HOW}
    killer = threading.Thread(target=kill_the_second, args=(tmp_path / "both",))
    killer.start()
    with pytest.raises(TrainingError, match=r"set 'a' ran out of memory at step .* it goes on from step \d"):
        finetune.train(*rows, **both)
    killer.join()
    again = finetune.train(*rows, **both)
    assert again["resumed"].to_list() == [1]
    assert names_in(tmp_path / "both") == [again["model_path"][0].rpartition("/")[2] + end for end in ("", ".log")]
    for column in ("train_loss", "eval_loss"):
        assert again[column][0] == pytest.approx(alone[column][0], rel=1e-5)
    curves = [finetune.losses(trained).fill_null(0).rows() for trained in (alone, again)]
    near = [("a", step, *(pytest.approx(loss, rel=1e-5) for loss in losses)) for _, step, *losses in curves[0]]
    assert curves[1] == near
    numbers = [json.loads(trained["hyperparameters"][0]) for trained in (alone, again)]
    assert [n.pop("num_processes", None) for n in numbers] == [None, 2]
    assert numbers[0] == numbers[1]


def kill_the_second(folder):
    """SIGKILL the process that only computes, once there is a checkpoint."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any(folder.glob(".checkpoints/*/step-*")):
            ours = {pid for pid, _ in processes.descendants(os.getpid())}
            (second,) = (pid for pid, _ in processes.with_variable("RANK", "1") if pid in ours)
            os.kill(second, signal.SIGKILL)
            return
        time.sleep(0.01)


def test_each_training_has_gpus_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,GPU-c,GPU-d,GPU-e")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert training._places(weights.visible_gpus(), 2) == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    with pytest.raises(ParameterError, match="num_processes must be at most 5, the GPUs that are visible, got 6"):
        training._places(weights.visible_gpus(), 6)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert weights.visible_gpus() == ["0", "1", "2", "3", "4"]
    running, seen = {}, []

    class Training:
        def __init__(self, arm):
            self.arm, self.seed, self.left = arm, 0, 2

        def start(self, gpus):
            assert gpus not in running.values()
            self.gpus = running[self.arm] = gpus
            seen.append(gpus)

        def progress(self):
            return None

        def finished(self, *, workers):
            self.left -= 1
            return not self.left and running.pop(self.arm) is not None

    children.supervise([Training(arm) for arm in "abcde"], 2, ["0,1", "2,3"])
    assert seen[:2] == ["0,1", "2,3"]
    assert len(seen) == 5


def test_what_several_processes_cannot_train_is_refused_with_the_way_out(monkeypatch, tmp_path):
    rows = {"a": nurses(range(4))}, None
    how = {"base_model": "tiny", "folder": tmp_path}
    with pytest.raises(ParameterError, match=r"num_processes must divide the 16 examples .*, got 3; "):
        finetune.train(*rows, num_processes=3, **how)
    with pytest.raises(ParameterError, match="method 'bf16-lora' on a CPU trains in one process, got num_processes 2"):
        finetune.train(*rows, num_processes=2, method="bf16-lora", **how)
    monkeypatch.setattr(training, "require", lambda *_: None)
    with pytest.raises(ParameterError, match="backend 'unsloth' trains in one process, got num_processes 2"):
        finetune.train(*rows, num_processes=2, backend="unsloth", **how)
    pairs = nurses(range(120)).select(pair_id="id", messages="messages", chosen="output", rejected=pl.lit("{}"))
    with pytest.raises(ParameterError, match="preferences are trained in one process, got num_processes 2"):
        finetune.prefer(pairs, None, finetune.Settings(num_processes=2, **how), least=3)
    monkeypatch.setenv("ARISLAB_NUM_PROCESSES", "2")
    assert finetune.Settings(**how).num_processes == 2
    assert finetune.Settings(**how, num_processes=1).num_processes == 1
    for wrong in ("two", "0", "-1", "1.5"):
        monkeypatch.setenv("ARISLAB_NUM_PROCESSES", wrong)
        with pytest.raises(ParameterError, match="num_processes must be a whole number from 1, got"):
            finetune.Settings(**how)
