"""What papermill loads of arislab.

An engine by which plain ``papermill`` leaves the record that ``arislab run`` leaves, with the same verdict.

The entry point ``papermill.engine: arislab`` names ``Engine``. Whoever asks for it also makes papermill ask ``Chooser``
first when no engine is named: a notebook that declares a phase of arislab (``metadata.arislab.phase``) runs as a
recorded run, any other as ever. papermill loads this module while it starts itself, so nothing of papermill or arislab
is imported here before a notebook runs. It stands outside of the rooms because every environment that has arislab
installed names it: an entry point that is not there keeps papermill from starting.
"""

import sys
from typing import Any


class RecordedRun:
    """papermill's engine named ``arislab``: every notebook becomes a recorded run.

    Its methods have papermill's signatures.
    """

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, **settings: Any) -> Any:
        """Execute a notebook that papermill has prepared."""
        from arislab import runs

        return runs.from_papermill(nb, **settings)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Return the kernel that a notebook asks for."""
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """Return the language that a notebook is in."""
        from papermill.utils import nb_language

        return str(nb_language(nb, language))


class Chooser(RecordedRun):
    """papermill's engine when none is named: ``RecordedRun`` for phases of arislab, papermill's own for the rest."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, **settings: Any) -> Any:
        """Execute a notebook that papermill has prepared."""
        from papermill.engines import NBClientEngine

        is_ours = "phase" in nb.metadata.get("arislab", {})
        engine = RecordedRun if is_ours else NBClientEngine
        return engine.execute_notebook(nb, kernel_name, **settings)


def __getattr__(name: str) -> Any:
    """Give ``Engine`` to papermill, and register ``Chooser`` then.

    This module may have been imported before papermill was.
    """
    if name != "Engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    engines = getattr(sys.modules.get("papermill.engines"), "papermill_engines", None)
    if engines is not None:
        engines.register(None, Chooser)
    return RecordedRun
