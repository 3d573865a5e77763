"""``arislab doctor``: what is installed here, what answers, and whether the lake is whole."""

import dataclasses
import json
import os
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli.options import Root, open_lake
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import environment, paths
from arislab.system.text import json_text, one_line, print


def doctor(
    root: Root = None,
    back: Annotated[
        str | None, typer.Option("--back", metavar="TABLE@VERSION", help="Make a whole version the newest one again.")
    ] = None,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Keep all that can be read; set the rest aside; one row per key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed and answers, then read the lake to the last value.

    Which table is damaged or holds a key twice, and which version is whole; exit code 1 if any is not well.
    """
    found = None if back is not None or repair else _here(root)
    if found is not None and not as_json:
        print("\n".join(_lines(found)))
    states, done = _lake(root, back, repair=repair)
    if as_json:
        tables = [dataclasses.asdict(state) | {"is_well": state.is_well} for state in states]
        print(json_text(json.dumps({**(found or {}), "done": done, "tables": tables}, indent=1)))
    else:
        print("\n".join([*done, *map(str, states)]) or "the lake is empty")
    if not all(state.is_well for state in states):
        raise typer.Exit(1)


def _lake(root: Path | None, back: str | None, *, repair: bool) -> tuple[list[Any], list[str]]:
    """How each table stands, and what was done about it."""
    from arislab.lake import check as lake_check

    lake, done = open_lake(root), []
    if back is not None:
        name, _, version = back.partition("@")
        if not version.isdecimal():
            raise ParameterError(f"--back must be TABLE@VERSION, such as reviews@3, got {back!r}.")
        done.append(lake_check.back(lake, name, int(version)))
    states = lake_check.examine(lake)
    if repair:
        for state in states:
            if not state.is_well:
                done += [f"{state.table}: {step}" for step in lake_check.repair(lake, state)]
        states = lake_check.examine(lake)
    return states, done


def _here(root: Path | None) -> dict[str, Any]:
    """Versions, extras, GPUs, root and servers, as --json prints them."""
    try:
        where: Path | None = paths.enter(root)
    except PrerequisiteError:  # the lake will say so; what is installed can be told without
        where = None
    extras = {name: environment.missing(name) for name in environment.EXTRAS}
    asked = [environment.embedded(where / "data" / "batches")] if where is not None else []
    if url := os.environ.get("OPENAI_BASE_URL"):
        from arislab.batch.connection import key_of_environment

        asked.append(environment.answers(url, key_of_environment()))
    return {
        "versions": environment.versions(),
        "extras": {name: {"is_complete": not lacking, "missing": lacking} for name, lacking in extras.items()},
        "gpus": environment.gpus(),
        "root": None if where is None else str(where),
        "servers": [server for server in asked if server is not None],
    }


def _lines(found: dict[str, Any]) -> list[str]:
    versions = {name: version for name, version in found["versions"].items() if version is not None}
    absent = [name for name, version in found["versions"].items() if version is None]
    every = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = textwrap.wrap(every, 120, initial_indent="versions  ", subsequent_indent=" " * 10)
    lines += [f"          not installed: {', '.join(absent)}"] if absent else []
    torch = versions.get("torch", "")
    none = "none that nvidia-smi names" + ("; torch is a build for CPUs" if torch.endswith("+cpu") else "")
    lines += [f"GPU       {gpu}" for gpu in found["gpus"]] or [f"GPU       {none}"]
    for name, state in found["extras"].items():
        first, *more = state["missing"] or ["complete"]
        what = first if state["is_complete"] else f"lacks {first}" + (f" and {len(more)} more" if more else "")
        lines.append(f"extra     {name:<7} {what}; for {environment.EXTRAS[name]}")
        if not state["is_complete"]:
            lines.append(f'                  pip install "arislab[{name}]"')
    for server in found["servers"]:
        models = server["models"]
        what = server["error"] if models is None else f"answers: {', '.join(models[:4])}" + (" …" if models[4:] else "")
        lines.append(f"server    {one_line(server['base_url'])} {one_line(what)}")
    if not found["servers"]:
        lines.append("server    none runs; the embedded one starts with a phase, OPENAI_BASE_URL would name another")
    return [*lines, f"root      {found['root'] or 'none: this is no lab'}"]
