"""Memory and disk that do not suffice end in one message that says what to change."""

import errno
import re
import sys

import pytest
from toys import disk, names_in, nurses

from arislab import finetune
from arislab.errors import TrainingError
from arislab.finetune import checkpoints, limits, ranks

NOW = {"batch_size": 6, "gradient_accumulation_steps": 2, "max_length": 512, "method": "lora"}


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (MemoryError(), errno.ENOMEM),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), errno.ENOMEM),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity"), errno.ENOMEM),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
            errno.ENOMEM,
        ),
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.ENOSPC),
        (OSError(errno.EFBIG, "File too large"), errno.ENOSPC),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (
            RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/3: file write failed"),
            errno.ENOSPC,
        ),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), errno.ENOSPC),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
    ],
)
def test_each_library_says_it_in_words_of_its_own(error, limit):
    assert limits.reached(error) == limit


def test_the_advice_names_the_present_numbers_and_the_next_smaller_ones():
    told = limits.what_to_change(errno.ENOMEM, NOW, workers=2, folder="models")
    for words in (
        "workers is 2, try 1", "gradient_accumulation_steps is 2, try 3", "max_length is 512", "batch_size (is 6",
        "method 'qlora' (is 'lora')",
    ):  # fmt: skip
        assert words in told
    most = limits.what_to_change(
        errno.ENOMEM, {**NOW, "gradient_accumulation_steps": 6, "method": "qlora"}, workers=1, folder="models"
    )
    assert "is 6, the most for this batch_size" in most
    assert not {"workers", "'qlora'"} & set(re.findall(r"workers|'qlora'", most))


def after_a_checkpoint(monkeypatch, event):
    """Start the training processes so that something happens to them after their first checkpoint."""
    code = f"""if True:
        import resource, sys, torch
        from arislab.finetune import worker
        from arislab.finetune.checkpoints import Checkpoints
        seal = Checkpoints._seal
        def sealed(self, part, step):
            seal(self, part, step)
            {event}
        Checkpoints._seal = sealed
        sys.exit(worker._main(sys.argv[1]))"""

    monkeypatch.setattr(ranks, "command", lambda spec, _: [sys.executable, "-c", code, str(spec)])


HOW = {
    "base_model": "tiny", "name": "toy", "num_train_epochs": 2, "batch_size": 2, "checkpoint_steps": 2,
    "checkpoint_minutes": 0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "message"),
    [
        (
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
            r"ran out of disk at step \d of 6 .*Make room on",
        ),
        ("torch.empty(2**50)", r"ran out of memory at step \d of 6 .*gradient_accumulation_steps is 1, try 2"),
    ],
)
def test_a_training_that_reaches_a_limit_says_so_and_goes_on_when_there_is_more(tmp_path, monkeypatch, event, message):
    after_a_checkpoint(monkeypatch, event)
    with pytest.raises(TrainingError, match=message) as error:
        finetune.train({"a": nurses(range(6))}, None, folder=tmp_path, **HOW)
    assert str(error.value).endswith("Run again with the same settings, it goes on from step 2.")
    assert "\n" not in str(error.value)
    assert names_in(tmp_path) == [checkpoints.FOLDER, "toy-a.failed.log"]
    (kept,) = (tmp_path / checkpoints.FOLDER).iterdir()
    assert [name for name in names_in(kept) if not name.startswith("attempt-")] == ["step-00000002"]
    monkeypatch.undo()
    rows = finetune.train({"a": nurses(range(6))}, None, folder=tmp_path, **HOW)
    assert rows["resumed"].to_list() == [1]


@pytest.mark.parametrize(
    ("size", "checkpoint_steps", "step"),
    [("4k", 2, None), ("300k", 0, "3 of 3"), ("300k", 2, "2 of 3"), ("600k", 2, "2 of 3")],
    ids=["the examples", "the adapter", "weights of a checkpoint", "optimizer of a checkpoint"],
)
def test_a_disk_that_is_full_is_named_and_nothing_half_is_left(tmp_path, monkeypatch, size, checkpoint_steps, step):
    monkeypatch.setattr("arislab.finetune.training._check_disk", lambda *_: None)  # it would refuse before
    how = {**HOW, "num_train_epochs": 1, "checkpoint_steps": checkpoint_steps, "checkpoint_minutes": 5}
    with disk(tmp_path / "small", size=size) as small:
        with pytest.raises(TrainingError, match=f"ran out of disk at step {step}" if step else "was not tr") as error:
            finetune.train({"a": nurses(range(2 if step is None else 6))}, None, folder=small, **how)
        assert f"Make room on the disk of {small}, or give another root" in str(error.value)
        assert not step or "it starts anew, as there is no checkpoint yet" in str(error.value)
        assert set(names_in(small)) <= {checkpoints.FOLDER, "toy-a.failed.log"}
        assert not list(small.rglob("step-*"))
