"""A phase's notebook run as a recorded run: which notebook, with which parameters, and one run of a phase at a time.

This module does not know what any phase does.
"""

import contextlib
import fcntl
import gc
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arislab.errors import PrerequisiteError, closest
from arislab.records.outputs import INJECTED
from arislab.records.record import Record
from arislab.runs import provenance
from arislab.runs.kernel import Job, Outcome, kernel_of, run
from arislab.runs.parameters import as_code, convert, in_force, parameters_of
from arislab.runs.progress import Step
from arislab.runs.recording import Recording
from arislab.runs.signals import stoppable
from arislab.runs.supervise import supervise
from arislab.system import files as whole_files
from arislab.system import paths

PHASES = {
    "generate": "1_generate.ipynb",
    "curate": "2_curate.ipynb",
    "icl": "3_icl.ipynb",
    "finetune": "4_finetune.ipynb",
    "evaluate": "5_evaluate.ipynb",
}
"""Name to notebook, in the order in which ``arislab demo`` runs them; any other runs by its name, or by its path."""


def execute(
    phase: str,
    given: Mapping[str, object] | None = None,
    *,
    root: Path,
    notebooks: Path | None = None,
    echo: Callable[[str], object] | None = None,
    tell: Callable[[Step], object] | None = None,
    given_from: Mapping[str, str] | None = None,
    wait: bool = False,
    timeout_s: float | None = None,
    cell_timeout_s: float | None = None,
    resumed_from: str | None = None,
) -> Record:
    """Run the notebook of a phase as a recorded run.

    A notebook that fails or is interrupted is a record with that status, not an exception.

    Args:
        phase: ``curate``, ``2_curate``, ``judge`` (a notebook beside them), or the path of any notebook.
        given: Parameters; text is read as the type that the notebook declares.
        root: Folder of ``data/`` and ``papermill_runs/``.
        notebooks: Folder of the notebooks; default: the lab's.
        echo: Gets one line a cell.
        tell: Gets a ``runs.Step`` whenever a cell begins, or a progress bar in it goes on: up to five a second.
        given_from: Where each given parameter came from; recorded.
        wait: Wait for another run of this phase instead of being refused.
        timeout_s: Longest run, seconds; null: no limit.
        cell_timeout_s: Longest run of one cell, seconds; null: no limit.
        resumed_from: Run that this one goes on from; recorded. What is finished returns from the lake.

    Raises:
        PrerequisiteError: Unknown phase, parameter or task, or the phase is running already; nothing was made.
    """
    root = root.resolve()
    name, notebook = find_notebook(phase, notebooks)
    declared = parameters_of(notebook)
    passed = convert(declared, given or {})
    if "task" in passed:
        passed["task"] = _task_argument(passed["task"])
    # what cannot run is refused before anything is made
    provenance.task(in_force(declared, passed), notebook.parent)
    fields = {
        "launched_by": "arislab",
        "resumed_from": resumed_from,
        "rerun_of": os.environ.get("ARISLAB_RERUN_OF"),
        "parameters_from": {n: (given_from or {}).get(n, "given") for n in passed},
    }
    # the lock before the record: a run that is refused leaves nothing
    with lock(root, name, wait=wait), stoppable(), _frozen():
        recording = Recording(name, notebook, declared, passed, root=root, echo=echo, **fields)
        return recording.run(
            lambda job: supervise(notebook, job),
            cwd=notebook.parent,
            timeout_s=timeout_s,
            cell_timeout_s=cell_timeout_s,
            tell=tell,
        )


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Spare the garbage collector what is loaded by now.

    Looking at it again and again costs a tenth of a second each time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def from_papermill(nb: Any, **settings: Any) -> Any:
    """Run a notebook that plain papermill has prepared as a recorded run, and return it as papermill expects.

    Args:
        nb: The notebook with the injected cell; it gets outputs and states.
        settings: What papermill gives an engine: input_path, output_path, execution_timeout, …

    Raises:
        PrerequisiteError: As in ``execute``.
        nbclient's errors: The kernel died, or a cell passed its limit, as papermill's own engine raises them.
    """
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.iorw import write_ipynb

    root, source, output = paths.root(), Path(settings["input_path"]), settings.get("output_path")
    name = phase_of(str(nb.metadata.get("arislab", {}).get("phase") or source.stem))
    declared = parameters_of(source, cells=nb.cells)
    asked = nb.metadata.get("papermill", {}).get("parameters") or {}
    passed = convert(declared, asked)
    for cell in nb.cells:
        if INJECTED in cell.metadata.get("tags", []):  # papermill's own text loses types
            cell.source = "# Parameters\n" + "".join(f"{n} = {as_code(v)}\n" for n, v in passed.items())
    fields = {"launched_by": "papermill", "parameters_from": dict.fromkeys(passed, "papermill")}

    def prepared(job: Job) -> Outcome:
        with kernel_of(job) as kernel:
            return run(nb, job, kernel)

    with lock(root, name), stoppable():
        recording = Recording(name, source.resolve(), declared, passed, root=root, echo=None, **fields)
        record = recording.run(
            prepared,
            cwd=Path.cwd(),
            cell_timeout_s=settings.get("execution_timeout"),
            also_save=(lambda executed: write_ipynb(recording.clean_copy(executed), output)) if output else None,
        )
    nb.update(recording.clean_copy(nb))  # papermill writes and shows it
    if output:
        write_ipynb(nb, output)
    if record.status == "interrupted":
        raise KeyboardInterrupt(record.reason)
    if record.status == "timeout":
        raise CellTimeoutError(str(record.reason))
    if record.status == "killed":
        raise DeadKernelError(str(record.reason))
    return nb


def find_notebook(phase: str, notebooks: Path | None = None) -> tuple[str, Path]:
    """Return the phase's short name and its notebook.

    Args:
        phase: As in ``execute``.
        notebooks: As in ``execute``.

    Raises:
        PrerequisiteError: There is no such phase or notebook.
    """
    notebooks = notebooks or paths.notebooks()
    stems = {Path(file).stem: name for name, file in PHASES.items()}
    path = Path(phase)
    if path.suffix == ".ipynb":
        if not path.is_file():
            raise PrerequisiteError(f"there is no notebook {phase}; give its path, or one of {', '.join(PHASES)}.")
        return stems.get(path.stem) or phase_of(path.stem), path.resolve()
    name = stems.get(phase, phase)
    if name in PHASES:
        return name, (notebooks / PHASES[name]).resolve()
    others = {path.stem: path for path in notebooks.glob("*.ipynb") if path.stem not in stems}
    if name not in others:
        raise PrerequisiteError(
            f"there is no phase {phase!r}; {closest(phase, [*PHASES, *others])}; or give the path of a notebook."
        )
    return phase_of(name), others[name].resolve()


def phase_of(name: str) -> str:
    """Return a name as it may stand in the name of a folder: letters, digits and ``_``, at most 100 bytes.

    Example:
        >>> phase_of("../my notes' (2)")
        '_my_notes_2_'
    """
    return re.sub(r"\W+", "_", name).encode(errors="ignore")[:100].decode(errors="ignore") or "_"


def _task_argument(task: Any) -> Any:
    """Return a path as an absolute one, since the kernel works in another folder; a name as it is."""
    return (
        str(Path(task).resolve()) if isinstance(task, str) and task.endswith(".py") and Path(task).is_file() else task
    )


@contextlib.contextmanager
def lock(root: Path, phase: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the right to run a phase under a root; the system frees it when the process ends, however it ends.

    Args:
        root: Folder of ``papermill_runs/``.
        phase: Name of the phase.
        wait: Wait in line until it is free.

    Raises:
        PrerequisiteError: Another run holds it, or the folder cannot be written.
    """
    path = root / "papermill_runs" / ".locks" / phase
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = whole_files.opened(path)
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write to {path.parent.parent} ({error.strerror}); choose another folder with --root."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "another process"
            raise PrerequisiteError(
                f"phase {phase!r} is already running under {root} ({holder}); "
                f"wait for it (--wait), stop it, or choose another folder with --root."
            ) from None
        with contextlib.suppress(OSError):  # a full disk: who holds the lock is a courtesy
            file.truncate(0)
            file.write(f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode())
        yield
