"""Imports that take long for the sake of what nobody asks, and packages that are not there."""

import importlib.util
import sys
from types import ModuleType

from arislab.errors import PrerequisiteError

_GRAMMAR = "rfc3987_syntax"


def jsonschema() -> ModuleType:
    """Import jsonschema, and have it read the grammar of IRIs when the first IRI is checked.

    JupyterLab brings that grammar along, and compiling it takes 1.5 s of every process that imports jsonschema; so do
    nbformat and papermill. Whoever needs those calls this before.
    """
    if not {"jsonschema", _GRAMMAR} & sys.modules.keys() and importlib.util.find_spec(_GRAMMAR):
        deferred = ModuleType(_GRAMMAR)
        vars(deferred)["is_valid_syntax"] = _is_valid_syntax  # all that jsonschema takes of it
        sys.modules[_GRAMMAR] = deferred
        try:
            return importlib.import_module("jsonschema")
        finally:
            del sys.modules[_GRAMMAR]  # for anybody else it is what it is
    return importlib.import_module("jsonschema")


def _is_valid_syntax(term: str, value: str) -> bool:
    return bool(importlib.import_module(_GRAMMAR).is_valid_syntax(term, value))


def require(feature: str, install: str, *modules: str) -> None:
    """Raise PrerequisiteError for packages that are not installed, with the line that installs them."""
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise PrerequisiteError(f"{feature} needs {', '.join(missing)}, not installed here; run: {install}")
