"""arislab: batch LLM output to training data you can defend.

The notebook decides, the package does, the lake remembers.
"""

__version__ = "0.1.0"

_TYPED = {
    *("task", "structured", "batch", "lake", "scoring", "curate", "review", "icl", "finetune", "evaluate", "models"),
    *("stats", "duplicates", "plots", "runs"),
}
"""What a notebook names of arislab, in the order of the work."""

TYPE_CHECKING = False  # checkers know the name; `typing` would make the import of the package twice as slow
if not TYPE_CHECKING:  # a checker would take any name for one that is here

    def __getattr__(name: str) -> object:
        """Load a part when it is first named, so that ``import arislab; arislab.runs()`` works and ``import arislab`` stays quick."""
        import importlib

        if name in _TYPED:
            return importlib.import_module(f"arislab.{name}")
        raise AttributeError(f"module 'arislab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_TYPED})
