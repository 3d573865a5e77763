"""arislab: batch LLM output to training data you can defend.

The notebook decides, the package does, the lake remembers.
"""

__version__ = "0.1.0"

_TYPED = {
    *(
        "ranges",
        "task",
        "structured",
        "batch",
        "lake",
        "scoring",
        "curate",
        "review",
        "judge",
        "icl",
        "finetune",
        "evaluate",
    ),
    *("pairwise", "preferences", "models", "deploying", "stats", "duplicates", "plots", "runs"),
}
"""What a notebook names of arislab, in the order of the work."""
_MOVED = {
    **dict.fromkeys(("curation", "selection", "explore"), "curate"),
    "verdicts": "curate.verdicts",
    **dict.fromkeys(("references", "cells"), "icl"),
}
"""Names in notebooks of earlier versions, which people have copies of, and the parts that have their functions now."""

TYPE_CHECKING = False  # checkers know the name; `typing` would make the import of the package twice as slow
if not TYPE_CHECKING:  # a checker would take any name for one that is here

    def __getattr__(name: str) -> object:
        """Load a part when it is first named: ``arislab.runs()`` works, and ``import arislab`` stays quick."""
        import importlib

        if name in _MOVED:
            import warnings

            message = f"arislab.{name} is part of arislab.{_MOVED[name]} now; import that instead"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        if name in _TYPED or name in _MOVED:
            return importlib.import_module(f"arislab.{_MOVED.get(name, name)}")
        raise AttributeError(f"module 'arislab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_TYPED})
