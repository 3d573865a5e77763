"""What is installed here and what answers: versions, extras, GPUs, servers. Nothing heavy is imported to find out."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from arislab.system import masking

PACKAGES = (
    *("arislab", "polars", "pandas", "torch", "transformers", "trl", "peft", "vllm", "unsloth"),
    *("jupyterlab", "papermill"),
)
"""Packages whose versions decide what can be done here."""
EXTRAS = {
    "train": "fine-tuning, and any local model",
    "lab": "JupyterLab and review in a browser",
    "real": "the demo's real model (SmolLM2)",
    "gpu": "fine-tuning by unsloth on a GPU",
    "daft": "curation spread over many processors (run curate -p engine daft)",
    "ray": "replicas over many machines or GPUs (serve --ray)",
    "mlflow": "records as MLflow runs",
}
"""Extra to what it is for; without the one for arislab's own tests."""
_PATIENCE_S = 3.0


def versions() -> dict[str, str | None]:
    """Return the version of Python and of each of ``PACKAGES``; null: not installed here."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def missing(extra: str) -> list[str]:
    """Return what of an extra is not installed, or in another version than it needs, such as ``voila>=0.5.8``.

    Args:
        extra: One of ``EXTRAS``.
    """
    return list(dict.fromkeys(_missing("arislab", extra)))


def _missing(package: str, extra: str) -> list[str]:
    from packaging.requirements import Requirement

    try:
        needs = map(Requirement, importlib.metadata.requires(package) or ())
    except importlib.metadata.PackageNotFoundError:  # run from its files: nobody knows what it needs
        return [package]
    lacking = []
    for needed in needs:
        # of every installation, or of another extra
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            continue
        if not needed.marker.evaluate({"extra": extra}):
            continue
        if needed.name == package:  # arislab[train]: an extra of extras
            lacking += [line for part in sorted(needed.extras) for line in _missing(package, part)]
            continue
        known = _version(needed.name)
        if known is None or not needed.specifier.contains(known, prereleases=True):
            lacking.append(f"{needed.name}{needed.specifier}" + (f" ({known} is here)" if known else ""))
    return lacking


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpus() -> list[str]:
    """Return a line for each GPU that NVIDIA's tool names: its name, memory and driver; none without the tool."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    asked = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def embedded(folder: Path) -> dict[str, Any] | None:
    """Return what the embedded server of a folder says; null: none was started there, or it has ended.

    Args:
        folder: Of the batch ledger, ``data/batches`` under a root.
    """
    try:
        ready = json.loads((folder / "server" / "address.json").read_text(encoding="utf-8"))
        key = Path(ready["token_file"]).read_text(encoding="utf-8").strip()
        url = str(ready["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not url.startswith("http://127.0.0.1:"):  # a key of this machine is for this machine
        return None
    said = answers(url, key)
    return said if said["models"] is not None else None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def answers(base_url: str, key: str | None) -> dict[str, Any]:
    """Ask a server for its models: base_url (without a password), models (null: it does not say), error (null: none).

    Args:
        base_url: Ending in /v1; user and password in it are sent if there is no key.
        key: Sent as bearer token; null: none.
    """
    url, credentials = masking.take_apart(base_url)
    said: dict[str, Any] = {"base_url": url, "models": None, "error": None}
    who = masking.basic(credentials) if credentials and not key else f"Bearer {key or 'none'}"
    # a server of this machine is behind no proxy
    near = [urllib.request.ProxyHandler({})] if url.startswith(("http://127.0.0.1", "http://localhost")) else []
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/models", headers={"Authorization": who})
        with urllib.request.build_opener(_Stay, *near).open(request, timeout=_PATIENCE_S) as answer:
            said["models"] = [str(model["id"]) for model in json.load(answer)["data"]]
    except urllib.error.HTTPError as error:
        why = " (no key, or another one)" if error.code in (401, 403) else ""
        said["error"] = f"it answers with {error.code}{why}"
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        said["error"] = f"{type(error).__name__}: {error}"
    return said
