"""Several processes of one training, as `accelerate launch` starts them: one GPU each, batches in equal parts.

The first process writes, the others compute. What depends on a clock or on rounding (when a checkpoint is due, when it
learns no more) is decided by the first for all of them: processes that disagree wait for each other for ever.

Rows that do not divide are filled up with the first of an epoch, as accelerate does, so that all have as many batches.
It was run on a CPU only, in two processes. They find each other by a port that torch opens on all interfaces while
they start; sums go over loopback.
"""

import os
import sys
from pathlib import Path
from typing import Any

VARIABLE = "ARISLAB_NUM_PROCESSES"
_CONFIG = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: 'no'
num_machines: 1
num_processes: {n}
main_process_port: 0
"""


def command(spec: Path, n: int) -> list[str]:
    """Return the command line of a training in `n` processes.

    Args:
        spec: Its file; with several processes a configuration comes to lie beside it, in place of the user's own, which
            may ask for other machines or for weights in parts.
        n: 1 or more.
    """
    worker = ["-m", "arislab.finetune.worker", str(spec)]
    if n == 1:
        return [sys.executable, *worker]
    config = spec.with_name("accelerate.yaml")
    config.write_text(_CONFIG.format(n=n))
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(n)]
    return [sys.executable, *launch, "--multi_gpu", *worker]


def outside() -> dict[str, str]:
    """Return the environment without what makes a process one of several: such a launcher may start a kernel."""
    rank = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in rank and not name.startswith(("ACCELERATE_", "TORCHELASTIC_", "FSDP_"))
    }


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """Return how many processes this training has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agreed(value: Any) -> Any:
    """Return what the first process says, in all of them."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def meet() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
