"""``arislab import``: the command; what it does stands in ``inputs.importing``."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli import options
from arislab.errors import ParameterError
from arislab.system.text import print


def import_file(
    file: Path,
    what: Annotated[str, typer.Option("--as", help="candidates, outputs, or examples: outputs that people wrote.")],
    id: Annotated[str | None, typer.Option("--id", help="Column that names the candidate.")] = None,
    group: Annotated[str | None, typer.Option(help="Column that related candidates share: one split.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Column whose near-duplicates are one group; default what --task asks.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Column with train, validation or test.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Task file, a name or a path: judges outputs, asks about candidates.")
    ] = None,
    input: Annotated[str | None, typer.Option(help="Column with the question.")] = None,
    output: Annotated[str | None, typer.Option(help="Column with the answer.")] = None,
    model: Annotated[str | None, typer.Option(help="Column with the model's name.")] = None,
    author: Annotated[str | None, typer.Option(help="Of examples: who wrote them, and so has reviewed them.")] = None,
    keep: Annotated[str, typer.Option(help="Columns to keep for scorers, with commas between.")] = "",
    requests: Annotated[
        Path | None, typer.Option(help="The input file of an OpenAI batch whose output file is FILE.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="NAME=TYPE", help="int, float, bool, json or text; repeat it. Default: as in the file."
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text file, such as cp1252; default UTF-8.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of a CSV file, or tab; default what its header says.")] = None,
    root: options.Root = None,
    *,
    lenient: Annotated[bool, typer.Option("--lenient", help="Read NaN as null, half characters as U+FFFD.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be imported, write nothing.")] = False,
) -> None:
    """Bring your own candidates, or outputs recorded elsewhere, into the lake."""
    from arislab.inputs import importing
    from arislab.task import load

    if what not in ("candidates", "outputs", "examples"):
        raise ParameterError(f"--as must be candidates, outputs or examples, got {what!r}.")
    read = {"encoding": encoding, "separator": separator, "types": _types(types or ()), "lenient": lenient}
    of_files = {f"--{name.removesuffix('s')}": value for name, value in read.items()}
    of_outputs = {"--input": input, "--output": output, "--model": model, "--keep": keep, "--requests": requests}
    spec = None if task is None else load(task)
    if what == "candidates":
        if id is None:
            raise ParameterError("--as candidates needs --id COLUMN: the column that names each candidate.")
        _refuse(what, {**of_outputs, "--author": author})
        chosen: dict[str, Any] = {"id": id, "group": group, "text": text, "split": split}
        _say(importing.candidates(options.open_lake(root), file, spec, read=read, dry_run=dry_run, **chosen))
        return
    if spec is None:
        raise ParameterError(f"--as {what} needs --task NAME: the task file that will judge them.")
    _refuse(what, {"--group": group, "--text": text})
    if what == "examples":
        _refuse(what, {"--requests": requests, "--split": split, "--model": model})
        if not (author or "").strip():
            raise ParameterError(
                "--as examples needs --author NAME: who wrote them; they count as reviewed by that one."
            )
    else:
        _refuse(what, {"--author": author})
    if requests is not None:
        _refuse("outputs with --requests", {**of_outputs, "--requests": None, "--id": id, "--split": split, **of_files})
        _say(importing.batch(options.open_lake(root), file, spec, requests=requests, dry_run=dry_run))
    elif input is None or output is None:
        raise ParameterError(
            f"--as {what} needs --input COLUMN and --output COLUMN"
            + (", or --requests FILE beside an OpenAI batch output file." if what == "outputs" else ".")
        )
    else:
        columns: dict[str, Any] = {"id": id, "input": input, "output": output, "model": model, "split": split}
        kept = [name for name in keep.split(",") if name]
        how: dict[str, Any] = {"read": read, "keep": kept, "author": author, "dry_run": dry_run}
        _say(importing.outputs(options.open_lake(root), file, spec, **how, **columns))


def _say(lines: Sequence[str]) -> None:
    """Print what became of a file, warnings to stderr."""
    for line in lines:
        print(line, file=sys.stderr if line.startswith("warning") else sys.stdout)


def _refuse(what: str, given: Mapping[str, Any]) -> None:
    for option, value in given.items():
        if value:
            raise ParameterError(f"{option} means nothing for --as {what}; leave it out.")


def _types(given: Sequence[str]) -> dict[str, str]:
    types = {}
    for text in given:
        name, _, kind = text.rpartition("=")
        if not name:
            raise ParameterError(f"--type must be NAME=TYPE, got {text!r}; for instance --type years=int.")
        types[name] = kind
    return types
