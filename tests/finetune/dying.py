"""A training process that is killed at a place of the test's choice; run in place of `arislab.finetune.worker`.

`python dying.py PLACE N STEPS SPEC`: as soon as PLACE comes up for the Nth time; STEPS gets a byte for each step.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from arislab.finetune import worker
from arislab.system import files

place, n, steps, spec = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
publish, save, seen = files.publish, torch.save, 0


def here(name):
    global seen
    seen += name == place
    if seen == n and name == place:
        os.kill(os.getpid(), signal.SIGKILL)


def publish_or_die(part, final):
    what = "checkpoint" if final.name.startswith("step-") else "adapter"
    here(f"before the {what}")
    publish(part, final)
    here(f"after the {what}")


def save_or_die(value, path, *more, **named):
    save(value, path, *more, **named)
    if "optimizer" in str(path) and seen + 1 == n and place == "while writing":
        os.truncate(path, Path(path).stat().st_size // 2)
    here("while writing" if "optimizer" in str(path) else "")


def step_or_die(*_):
    here("within a step")
    with steps.open("ab") as file:
        file.write(b".")


files.publish, torch.save = publish_or_die, save_or_die
register_optimizer_step_pre_hook(step_or_die)
sys.exit(worker._main(spec))
