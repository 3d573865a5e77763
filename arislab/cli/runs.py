"""``arislab runs``, ``rerun``, ``verify``, ``resume``: what was run, whether it is true, and running it again."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli import progress, report
from arislab.cli.options import Root, Run, Trust
from arislab.errors import ParameterError, PrerequisiteError
from arislab.records.record import Record
from arislab.system.paths import enter
from arislab.system.text import one_line, print

app = typer.Typer(help="List the recorded runs (`arislab runs --help`); show one, compare two.")

NOT_EQUAL = 3
"""Exit code of a verification that found a difference."""


def given(parameters: Iterable[str], files: Iterable[Path]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters of files and of ``-p NAME=VALUE``, which go before, and where each came from."""
    from arislab.runs.parameter_file import from_file

    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for path in files:
        read = from_file(path)
        values |= read
        origin |= dict.fromkeys(read, f"-f {path.name}")
    for text in parameters:
        name, _, value = text.partition("=")
        values[name], origin[name] = value, "-p"
    return values, origin


def help_of(phase: str) -> str:
    """Return what ``arislab run PHASE --help`` prints."""
    from arislab import runs
    from arislab.runs import parameters

    name, notebook = runs.find_notebook(phase)
    lines = parameters.describe(runs.parameters_of(notebook))
    return f"Parameters of {name} ({notebook.name}); give them with -p NAME VALUE, or -f FILE.yaml:\n\n{lines}"


def perform(phase: str, given: Mapping[str, Any], root: Path, *, is_alone: bool = True, **how: Any) -> Record:
    """Run a phase, show where it is meanwhile, and print its report; exit code 1 if it is not ok.

    Args:
        phase: As in ``runs.execute``.
        given: Its parameters.
        root: Folder of ``data/`` and ``papermill_runs/``.
        is_alone: False: another phase follows at once.
        how: More of ``runs.execute``.
    """
    from arislab import runs

    with progress.shown(Path(phase).stem) as tell:
        record = runs.execute(phase, given, root=root, tell=tell, **how)
    print(report.of(record, is_alone=is_alone))
    if record.status != "ok":
        raise typer.Exit(1)
    return record


@app.command()
def show(run: Run, root: Root = None, *, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show one record whole."""
    from arislab.records import find as records
    from arislab.records import headline

    record = records.find(enter(root), run)
    if as_json:
        print(json.dumps(record, indent=1, default=str))
        return
    print(f"{record['run_id']}: {record['status']}" + (f" ({record['cause']})" if record.get("cause") else ""))
    if record["reason"]:
        print(f"  {one_line(record['reason'])}")
    if record.get("cell"):
        print(f"  cell {record['cell']['index']} of the notebook: {one_line(str(record['cell']['heading']))}")
    took = record["duration_s"]
    print(
        f"  {record['created_at']}, {'' if took is None else f'{took:.1f} s, '}launched by "
        f"{record['launched_by'] or 'arislab'}"
    )
    for name in ("resumed_from", "rerun_of", "run_key", "commit"):
        if record.get(name):
            print(
                f"  {name} {record[name]}"
                + (" + uncommitted changes" if name == "commit" and record["code"].get("dirty") else "")
            )
    origin = record.get("parameters_from", {})
    print("parameters")
    for name, value in (record["parameters"] or {}).items():
        print(f"  {one_line(name):<22} {value!r:<28} {one_line(str(origin.get(name, '')))}")
    for title in ("tables_read", "tables_written"):
        print(title.replace("_", " "))
        for name, table in record.get(title, {}).items():
            rows = f"{table['rows']:>10,} rows" if isinstance(table["rows"], int) else ""
            digest = str(table.get("digest") or "")[:16]
            print(f"  {one_line(name):<24} version {table['version']!s:<5} {rows}  {digest}")
    if record["headline"]:
        print("headline")
        print(headline.as_text(record["headline"], indent="  "))
    print(f"files in {record['folder']}")


@app.command()
def diff(
    before: Run,
    now: Run,
    root: Root = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what differs between two runs: parameters, code, task file, environment, inputs, headline, cell outputs."""
    from arislab.records import diff as run_diff
    from arislab.records import find as records

    where = enter(root)
    differences = run_diff.diff(records.find(where, before), records.find(where, now))
    if as_json:
        print(json.dumps(differences, indent=1))
        return
    for title, lines in differences.items():
        print(title)
        for line in lines[:40]:
            print(f"  {one_line(line)}")
        if len(lines) > 40:
            print(f"  … {len(lines) - 40} more lines")
    if not differences:
        print("no difference")


@app.command()
def export(
    run: Run,
    root: Root = None,
    ro_crate: Annotated[
        Path | None, typer.Option("--ro-crate", metavar="DIR", help="Folder to make: a Process Run Crate 0.5.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", metavar="URI", help="MLflow store, such as sqlite:///mlflow.db.")
    ] = None,
) -> None:
    """Write one record in a form that other tools read."""
    from arislab.records import find as records
    from arislab.records import mlflow as mlflow_runs
    from arislab.records import ro_crate as crates

    if ro_crate is None and mlflow is None:
        raise ParameterError("runs export needs --ro-crate DIR or --mlflow URI: what to write.")
    record = records.find(enter(root), run)
    if ro_crate is not None:
        print(f"{record['run_id']}: RO-Crate in {crates.ro_crate(record, ro_crate)}")
    if mlflow is not None:
        exported = mlflow_runs.mlflow(record, mlflow)
        state = f"written (artifacts: {exported.artifacts})" if exported.is_new else "stands already"
        print(f"{record['run_id']}: {state} as MLflow run {exported.mlflow_run_id} in {mlflow}")


def rerun(
    run: Run,
    into: Annotated[
        Path | None, typer.Option(help="Folder that becomes the root of the new run; default beside the records.")
    ] = None,
    root: Root = None,
    *,
    ask_again: Annotated[
        bool, typer.Option("--ask-again", help="Ask the model anew; else its recorded answers come again.")
    ] = False,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="Run although installed packages differ.")] = False,
    trust: Trust = False,
) -> None:
    """Run a recorded run again: its commit and changes, parameters and input versions, in a root of its own."""
    from arislab.records import find as records
    from arislab.records import headline
    from arislab.runs.rerun import rerun as run_again

    record = records.find(enter(root), run)
    target = _target(record, into)
    trust = _is_trusted(record, trust=trust)
    with progress.shown(str(record["phase"]), is_retold=True) as tell:
        made = run_again(record, into=target, replay=not ask_again, allow_drift=allow_drift, trust=trust, tell=tell)
    print(f"{made['run_id']}: {made['status']}, a rerun of {record['run_id']}, under {target}")
    if made["headline"]:
        print(headline.as_text(made["headline"], indent="  "))
    if made["status"] != record["status"]:
        print(f"  {record['run_id']} was {record['status']}; {made['reason'] or ''}")
        raise typer.Exit(1)


def _is_trusted(record: Mapping[str, Any], *, trust: bool) -> bool:
    """Say whether a record is run though it is foreign: it was told so, or whoever sits at the terminal says yes.

    Raises:
        PrerequisiteError: It is foreign, and nobody can be asked, or the answer is no.
    """
    from arislab.runs.trust import foreign, refusal

    why = None if trust else foreign(dict(record))
    if why is None:
        return trust
    message = refusal(dict(record), why)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PrerequisiteError(message)
    print(message)
    if not typer.confirm("Run it?", default=False):
        raise typer.Exit(2)
    return True


def _target(record: Mapping[str, Any], into: Path | None) -> Path:
    """The root of a rerun; it must not exist."""
    import secrets

    if into is not None:
        if into.exists():
            raise PrerequisiteError(
                f"--into {into} exists; give a folder that does not: it becomes the root of the run."
            )
        return into.resolve()
    return Path(record["folder"]).parent / ".reruns" / f"{Path(record['folder']).name}-{secrets.token_hex(2)}"


def verify(
    run: Run,
    root: Root = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this run's folder instead of running again.")
    ] = None,
    level: Annotated[
        str, typer.Option(help="0: the files and tables; 2: and run again; 3: and ask the model anew.")
    ] = "2",
    *,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Run again although installed packages differ.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder in which it was run again.")] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a record is true: its files, and that running it again gives the same, bit for bit.

    Exit code 3 if not.
    """
    import dataclasses

    from arislab.records import find as records
    from arislab.runs.compare import compare, within
    from arislab.runs.rerun import rerun as run_again
    from arislab.runs.verify import check_files

    if level not in ("0", "1", "2", "3"):
        raise ParameterError(f"--level must be 0, 1, 2 or 3, got {level!r}.")
    record = records.find(enter(root), run)
    verdicts = [check_files(record)]
    if not as_json:  # at once: the rest may take as long as the run did, or be refused
        print(verdicts[0], flush=True)
    if against is not None:
        verdicts.append(compare(record, records.read(against.resolve())))
    elif level != "0" and verdicts[0].note is None:
        target = _target(record, None)
        try:
            trust = _is_trusted(record, trust=trust)
            if not as_json:
                took = "" if record["duration_s"] is None else f"; it took {record['duration_s']:.0f} s then"
                print(f"{record['run_id']}: running it again{took} …", flush=True)
            how = {"replay": level != "3", "allow_drift": allow_drift, "trust": trust}
            with contextlib.nullcontext() if as_json else progress.shown(str(record["phase"]), is_retold=True) as tell:
                made = run_again(record, into=target, tell=tell, **how)
            verdicts.append((within if level == "3" else compare)(record, made))
        finally:
            if not keep:
                # its tables are hard links: nothing of the lake goes with it
                shutil.rmtree(target, ignore_errors=True)
    if as_json:
        print(json.dumps([dataclasses.asdict(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts[1:]:
            print(verdict)
    if any(verdict.findings for verdict in verdicts):
        raise typer.Exit(NOT_EQUAL)


def resume(run: Run, root: Root = None, *, trust: Trust = False) -> None:
    """Go on from a run that did not end well: the same phase and parameters, as a new run.

    What is in the lake is not done again.
    """
    from arislab.records import find as records
    from arislab.runs.parameters import as_text

    where = enter(root)
    record = records.find(where, run)
    if record["status"] in ("ok", *records.OPEN):
        raise PrerequisiteError(
            f"{record['run_id']} is {record['status']}; only a run that ended without being ok is resumed."
        )
    _is_trusted(record, trust=trust)
    passed = {name: as_text(value) for name, value in record["parameters_passed"].items()}
    notebook = Path(record["notebook"]["path"])
    phase = str(notebook) if notebook.is_file() else record["phase"]
    perform(
        phase,
        passed,
        where,
        resumed_from=record["run_id"],
        given_from=dict.fromkeys(passed, f"resume {record['run_id']}"),
    )
