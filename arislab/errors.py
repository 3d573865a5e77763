"""What can go wrong, as a tree. Every message says: what was given, what is allowed, what to do next.

ArislabError
├── PrerequisiteError   the user must fix something first; the command line prints it without a traceback
│   └── ParameterError  an unknown, mistyped or out-of-range parameter
├── LakeError           a table is missing, or rows break its contract
├── TaskError           the task file is incomplete, or one of its functions misbehaves
├── BatchError          the batch server refused, vanished, or an account does not sum to N
├── LeakageError        rows of the test split stand in what was trained or searched on
├── TrainingError       training rows or settings cannot be used
└── RegistryError       a model version is not what was registered, or may not be promoted
"""

from collections.abc import Iterable


class ArislabError(Exception):
    """Root of all errors that arislab raises on purpose."""


class PrerequisiteError(ArislabError):
    """Something that the user must fix first."""


class ParameterError(PrerequisiteError, ValueError):
    """A parameter that is unknown, of the wrong type, or out of range."""


class LakeError(ArislabError):
    """A table is missing, or rows break its contract."""


class TaskError(ArislabError):
    """The task file is incomplete, or one of its functions misbehaves."""


class BatchError(ArislabError):
    """The batch server refused, vanished, or an account does not sum to N."""


class LeakageError(ArislabError):
    """Rows of the test split stand in what was trained or searched on."""


class TrainingError(ArislabError):
    """Training rows or settings cannot be used."""


class RegistryError(ArislabError):
    """A model version is not what was registered, or may not be promoted."""


_MOST = 200  # names that a message lists


def closest(given: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'? Known: a, b, x`` for an unknown name.

    Example:
        >>> closest("keep_fracton", ["keep_fraction", "seed"])
        "did you mean 'keep_fraction'? Known: keep_fraction, seed"
    """
    import difflib  # listing runs does without it

    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    more = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return (f"did you mean {near[0]!r}? " if near else "") + "Known: " + ", ".join(names[:_MOST]) + more
