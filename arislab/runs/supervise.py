"""A notebook executed by papermill, under a supervisor that says what became of it."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from arislab.runs.kernel import Job, Outcome, kernel_of, run
from arislab.runs.log import Log
from arislab.runs.parameters import as_code
from arislab.runs.process import Kernel
from arislab.runs.signals import Stopped
from arislab.system import imports

_ENGINE = "arislab-supervised"


class _SupervisedEngine:
    """papermill's engine inside a supervised run: it hands the prepared notebook to its job.

    Its methods have papermill's signatures.
    """

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, *, hand_to: Callable[[Any], object], **settings: Any) -> Any:
        hand_to(nb)
        return type(nb)({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})  # ours is saved already

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        from papermill.utils import nb_language

        return str(nb_language(nb, language))


def supervise(notebook: Path, job: Job) -> Outcome:
    """Execute a notebook by papermill and return what became of it; a failure is an outcome, never an exception.

    Inside ``stoppable``, SIGINT and SIGTERM end it as interrupted, and later ones are ignored.

    Args:
        notebook: Source; not changed.
        job: How to run it.
    """
    try:
        with kernel_of(job) as kernel:  # it takes as long to come as papermill does
            return _executed(notebook, job, kernel)
    except OSError as error:
        return Outcome("failed", "no-start", f"{type(error).__name__}: {error}")
    except Stopped as stop:
        return Outcome("interrupted", "signal", str(stop), signal=str(stop))


def _executed(notebook: Path, job: Job, kernel: Kernel) -> Outcome:
    imports.jsonschema()  # before papermill does
    import papermill
    from nbformat import ValidationError
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillException
    from papermill.translators import papermill_translators

    papermill_engines.register(_ENGINE, _SupervisedEngine)
    papermill_translators.register("python", translator())
    ended: list[Outcome] = []
    try:
        with _papermill_log(job.log):
            papermill.execute_notebook(
                str(notebook).replace("{", "{{").replace("}", "}}"),  # papermill reads braces as places to fill in
                None,
                parameters=job.parameters,
                engine_name=_ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                hand_to=lambda nb: ended.append(run(nb, job, kernel)),
            )
    except (PapermillException, ValidationError, OSError, ValueError) as error:
        if not ended:
            return Outcome("failed", "no-start", f"{type(error).__name__}: {error}")
    return ended[0]


@contextlib.contextmanager
def _papermill_log(log: Log) -> Iterator[None]:
    """Send papermill's own remarks to the run's log instead of the terminal."""
    logger, handler = logging.getLogger("papermill"), logging.StreamHandler(log)
    handler.setLevel(logging.ERROR)  # it warns of parameters that its pattern does not find, though they are set
    passed, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = passed


def translator() -> type:
    """Return papermill's translator of parameters, made exact: a tuple stays one, and so does a date."""
    from papermill.translators import PythonTranslator

    class Exact(PythonTranslator):  # type: ignore[misc]
        @classmethod
        def translate(cls, val: Any) -> str:
            return as_code(val)

    return Exact
