"""A phase's notebook run by papermill, recorded by the process that supervises it, and run again from its record.

``execution`` begins a run (``jupyter`` one by hand) with ``parameters``; ``recording`` keeps its record while
``supervise`` and ``kernel`` run the notebook. Later ``verify``, ``rerun`` and ``compare`` prove the record; the room
``records`` reads it.

It does not know what any phase does.
"""

import sys
from pathlib import Path
from types import ModuleType

from arislab.records.find import as_json
from arislab.records.frame import Runs, list_runs
from arislab.records.headline import Account, Headline, account, headline
from arislab.records.record import Record
from arislab.runs.execution import PHASES, execute, find_notebook, from_papermill, lock
from arislab.runs.jupyter import begin
from arislab.runs.parameters import Parameter, convert, parameters_of
from arislab.runs.progress import Step
from arislab.system.paths import root as found_root

__all__ = [
    "PHASES",
    "Account",
    "Headline",
    "Parameter",
    "Record",
    "Runs",
    "Step",
    "account",
    "as_json",
    "begin",
    "convert",
    "execute",
    "find_notebook",
    "from_papermill",
    "headline",
    "list_runs",
    "lock",
    "parameters_of",
]


class _Callable(ModuleType):
    """This module; ``arislab.runs()`` lists the runs, which is what a user types first."""

    def __call__(self, root: Path | str | None = None) -> Runs:
        """Return the recorded runs under a root (default: the checkout's, or $ARISLAB_ROOT), newest first."""
        return list_runs(Path(root) if root is not None else found_root())


sys.modules[__name__].__class__ = _Callable
