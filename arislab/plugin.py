"""What papermill loads of arislab: an engine that tells the truth, for ``arislab run`` and for plain ``papermill`` alike.

The entry point ``papermill.engine: arislab`` names ``Engine``. Loading it also makes papermill ask ``Chooser`` first when no engine is
named: a notebook that declares a phase of arislab (``metadata.arislab.phase``) runs as a recorded run, any other as ever. This module
is imported by papermill while it starts, so it imports nothing heavy itself.
"""

from typing import Any

from papermill.engines import NBClientEngine, papermill_engines

from arislab.parameters import as_code


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's engine named ``arislab``: every notebook becomes a recorded run."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, **settings: Any) -> Any:
        """Execute a notebook that papermill has prepared; its signature is papermill's."""
        supervised = settings.pop("arislab_run", None)
        if supervised is not None:
            supervised(nb)
            return nb
        from arislab import runs

        return runs.from_papermill(nb, **settings)


class Chooser(NBClientEngine):  # type: ignore[misc]
    """papermill's engine when none is named: ``Engine`` for the phases of arislab, papermill's own for the rest."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, **settings: Any) -> Any:
        """Execute a notebook that papermill has prepared; its signature is papermill's."""
        is_ours = "phase" in nb.metadata.get("arislab", {})
        engine = Engine if is_ours else NBClientEngine
        return engine.execute_notebook(nb, kernel_name, **settings)


def translator() -> type:
    """Return papermill's translator of parameters, made exact: a tuple stays one, and so does a date."""
    from papermill.translators import PythonTranslator

    class Exact(PythonTranslator):  # type: ignore[misc]
        @classmethod
        def translate(cls, val: Any) -> str:
            return as_code(val)

    return Exact


papermill_engines.register(None, Chooser)
