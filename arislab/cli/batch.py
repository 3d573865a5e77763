"""The ``arislab batch`` commands: a file of requests to a file of results, through any Files + Batches server.

What goes in and out is OpenAI's pair of files, so that any engine can take over; the ledger of a folder remembers what
is on its way. Keys come from $ARISLAB_API_KEY or $OPENAI_API_KEY only.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli import options
from arislab.cli.options import Root
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import files
from arislab.system.text import json_text, print

app = typer.Typer(no_args_is_help=True, help="Send a file of requests through any Files + Batches server.")

File = Annotated[Path, typer.Argument(help="Requests: one JSON object a line, as in OpenAI's batch input files.")]
BaseUrl = Annotated[str, typer.Option("--base-url", help="URL of the server, ending in /v1; or embedded.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Folder of the ledger; default data/batches under the root.")
]
As = Annotated[
    str, typer.Option("--dialect", help="openai, arislab, vllm, litellm, ogx, llm_d or control_layer; auto asks.")
]
Resend = Annotated[
    list[str] | None, typer.Option(help="Send earlier failures again: error, lost or cancelled; repeat it.")
]


@app.command()
def plan(
    file: File,
    base_url: BaseUrl,
    folder: Folder = None,
    root: Root = None,
    dialect: As = "auto",
    resend: Resend = None,
) -> None:
    """Say what submit would send, and what it may cost; nothing is sent."""
    from arislab import batch

    where, requests = _folder(folder, root), _requests(file)
    with _connected(base_url, where, dialect) as server:
        models = [server.model(name) for name in requests["model"].unique(maintain_order=True)]
        print(batch.plan(requests, server=server, folder=where, resend=_statuses(resend)))
        for model in models:
            print(f"price of {model}: {_price(batch.prices(model))}")


@app.command()
def submit(
    file: File,
    base_url: BaseUrl,
    folder: Folder = None,
    root: Root = None,
    dialect: As = "auto",
    resend: Resend = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until all is done.")] = False,  # noqa: FBT002 - a flag
    budget_tokens: Annotated[int | None, typer.Option(help="Stop before the file that would pass it.", min=1)] = None,
) -> None:
    """Send what is not on its way or answered already; running it again continues.

    Exit 1 if batches completed without a single answer.
    """
    from arislab import batch

    where, requests = _folder(folder, root), _requests(file)
    budget = batch.Budget(tokens=budget_tokens) if budget_tokens is not None else None
    with _connected(base_url, where, dialect) as server:
        for model in requests["model"].unique(maintain_order=True):
            server.model(model)
        job = batch.submit(requests, server=server, folder=where, resend=_statuses(resend), budget=budget)
        if job.is_one_at_a_time():
            names = ",".join(requests["model"].unique(maintain_order=True))
            print(
                f"one model at a time; `arislab batch doctor --base-url {server.base_url} --models {names}` finds out "
                "whether that is needed"
            )
        try:
            if wait:
                job.wait()
            _account(job.account(), requests.height)
            for batch_id in job.batch_ids:
                print(batch_id)
            fruitless = job.fruitless()
        finally:
            job.ledger.close()
    if base_url == "embedded" and not wait:
        print(
            "the embedded server stops with this command and goes on with the next one; --wait stays until all is done"
        )
    _check(fruitless)


@app.command()
def status(
    base_url: Annotated[str, typer.Option("--base-url", help="Ask this server too; default: the ledger alone.")] = "",
    folder: Folder = None,
    root: Root = None,
    dialect: As = "auto",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the batches of the ledger, oldest first."""
    from arislab import batch

    where = _folder(folder, root)
    if base_url:
        with _connected(base_url, where, dialect) as server:
            _table(batch.status(where, server=server), as_json=as_json)
    else:
        _table(batch.status(where), as_json=as_json)


@app.command()
def collect(
    file: File,
    base_url: BaseUrl,
    out: Annotated[Path, typer.Option(help="File to write: one result line per request that has one.")] = Path(
        "results.jsonl"
    ),
    folder: Folder = None,
    root: Root = None,
    dialect: As = "auto",
) -> None:
    """Fetch what has ended, and write the results of FILE in its order.

    Exit 1 while some have none, or if none of them is an answer.
    """
    from arislab import batch
    from arislab.batch.ledger import Ledger

    where, requests = _folder(folder, root), _requests(file)
    with _connected(base_url, where, dialect) as server:
        batch.collect(where, server=server)
        ledger = Ledger(where)
        try:
            names = requests["custom_id"].to_list()
            _, held, _ = ledger.look(names, server=server.identity, resend=())
            shards = [row for row in ledger.rows() if row["id"] in held]
            job = batch.Job(requests, server, where, ledger, shards=shards)
            lines, counts, fruitless = job.lines(), job.account(), job.fruitless()
        finally:
            ledger.close()
    _write(out, (json.dumps(json.loads(lines[name])) for name in names if name in lines))  # ASCII, whatever came
    _account(counts, requests.height)
    print(f"{len(lines):,} lines in {out}")
    if len(lines) < requests.height:
        raise typer.Exit(1)
    _check(fruitless)


@app.command()
def cancel(
    batch_ids: Annotated[
        list[str] | None, typer.Argument(help="Default: all that are on their way to the server.")
    ] = None,
    *,
    base_url: BaseUrl,
    folder: Folder = None,
    root: Root = None,
    dialect: As = "auto",
) -> None:
    """Cancel batches; answers so far stay."""
    from arislab import batch

    where = _folder(folder, root)
    with _connected(base_url, where, dialect) as server:
        _table(batch.cancel(where, server=server, batch_ids=batch_ids or None), as_json=False)


@app.command()
def doctor(
    base_url: Annotated[str, typer.Option("--base-url", help="URL of the server, ending in /v1.")],
    model: Annotated[str, typer.Option(help="Name to ask for; default the first that the server lists.")] = "",
    patience_s: Annotated[float, typer.Option(help="Longest wait for the batches to end.", min=1)] = 900,
    models: Annotated[str, typer.Option(help="Two names or more, with commas: are these kept apart?")] = "",
    root: Root = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine a server: what holds, what deviates, what the client does about it; about 25 tiny requests.

    With --models: whether it answers with the model that was asked while it is asked for others, about 300 short
    requests, and which runs of this root asked it. Exit 1 if something deviates that the client cannot bridge.
    """
    if models:
        return _isolation(base_url, models, root=root, as_json=as_json)
    from arislab.batch.connection import key_of_environment
    from arislab.batch.doctor import as_text, diagnose

    checks = diagnose(base_url, key_of_environment() or "none", model=model, patience_s=patience_s)
    print(json_text(checks.write_json()) if as_json else as_text(checks))
    if not checks["bridged"].all():
        raise typer.Exit(1)


@app.command()
def simulate(
    n: Annotated[int, typer.Argument(metavar="N", help="Requests.", min=1)],
    upstreams: Annotated[int, typer.Option(help="Chat servers, one GPU each.", min=1)] = 1,
    slots: Annotated[int, typer.Option(help="Requests that each works on at once.", min=1)] = 256,
    median_s: Annotated[float, typer.Option(help="Seconds of an answer, the median.", min=0)] = 0.8,
    spread: Annotated[float, typer.Option(help="99 % come within so many times the median.", min=1)] = 7.5,
    tokens_per_s: Annotated[
        float | None, typer.Option(help="Tokens a second of a chat server; gives the seconds of an answer.")
    ] = None,
    prompt_tokens: Annotated[float, typer.Option(help="Of a request.", min=0)] = 300,
    answer_tokens: Annotated[float, typer.Option(help="Of an answer.", min=0)] = 200,
    limit_per_s: Annotated[float | None, typer.Option(help="Requests a second that a chat server takes.")] = None,
    refuse_fraction: Annotated[float, typer.Option(help="Share refused by chance, below 1.", min=0)] = 0.0,
    retry_after_s: Annotated[float | None, typer.Option(help="Seconds that a refusal asks to wait.", min=0)] = None,
    fail_fraction: Annotated[float, typer.Option(help="Share that breaks off, below 1.", min=0)] = 0.0,
    crash_after_s: Annotated[float | None, typer.Option(help="arislab serve is killed after these.", min=0)] = None,
    down_s: Annotated[float, typer.Option(help="Seconds until it is there again.", min=0)] = 10.0,
    model: Annotated[str, typer.Option(help="Whose tokens to price, from data/prices.toml; empty: none.")] = "",
    usd_per_gpu_hour: Annotated[float | None, typer.Option(help="Price of a GPU for an hour.", min=0)] = None,
    seed: options.Seed = 0,
    root: Root = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how long N requests would take, what is asked twice, and what is the narrowest place; nothing is sent."""
    import dataclasses

    from arislab import batch
    from arislab.system import paths

    if root is not None:
        paths.enter(root)
    price = batch.prices(model) if model else None
    if model and price is None:
        raise ParameterError(f"data/prices.toml has no price of {model!r}; add a [[price]], or leave --model out.")
    forecast = batch.simulate(
        n,
        upstreams=upstreams,
        slots=slots,
        median_s=median_s,
        spread=spread,
        tokens_per_s=tokens_per_s,
        tokens=(prompt_tokens, answer_tokens),
        limit_per_s=limit_per_s,
        refuse_fraction=refuse_fraction,
        retry_after_s=retry_after_s,
        fail_fraction=fail_fraction,
        crash_after_s=crash_after_s,
        down_s=down_s,
        usd_per_million=None if price is None else price.usd_per_million,
        usd_per_gpu_hour=usd_per_gpu_hour,
        seed=seed,
    )
    print(json.dumps(dataclasses.asdict(forecast) | {"narrowest": forecast.narrowest}) if as_json else forecast)


def _isolation(base_url: str, models: str, *, root: Path | None, as_json: bool) -> None:
    """Examine a server anew for several models, and name the runs that asked it."""
    from arislab import batch
    from arislab.batch import mixing
    from arislab.system import paths

    where, names = _folder(None, root), list(dict.fromkeys(filter(None, map(str.strip, models.split(",")))))
    if len(names) < 2:
        raise ParameterError(f"--models must name two models or more, with commas between them, got {models!r}.")
    with _connected(base_url, where) as server:
        for name in names:
            server.model(name)
        result = mixing.probe(server, names, folder=where, batches=batch.send_together)
        runs = _runs_at(paths.root(), server)
    if as_json:
        print(json.dumps({"isolation": result.as_dict(), "runs": runs}))
    else:
        print(result)
        print(f"{len(runs)} runs of this root asked this server, newest first")
        for run in runs:
            print(f"{run['run_id']}  {run['phase']:<8}  {run['isolation']}")
    if result.verdict == "fails alone":
        raise typer.Exit(1)


def _runs_at(root: Path, server: Any) -> list[dict[str, Any]]:
    """The runs that asked several models of a server, and what was known then of whether it keeps them apart."""
    from arislab.records import find as records

    runs = []
    for short in records.select(root, where="phase in ('finetune', 'evaluate')"):
        run = records.read(Path(short["folder"]))
        here = [one for one in run.get("servers", []) if server.identity in (one.get("identity"), one["base_url"])]
        verdicts = [one["isolation"]["verdict"] for one in here if "isolation" in one]
        if here:
            verdict = next(reversed(verdicts), "not examined")
            runs.append({"run_id": run["run_id"], "phase": run["phase"], "isolation": verdict})
    return runs


def _folder(folder: Path | None, root: Path | None) -> Path:
    """Where the ledger lies; ``--root`` becomes the root of this process."""
    from arislab.system import paths

    if root is not None:  # else a command with --folder needs no checkout around it
        paths.enter(root)
    return folder if folder is not None else paths.root() / "data" / "batches"


def _requests(file: Path) -> Any:
    from arislab import batch

    if not file.is_file():
        raise ParameterError(f"there is no file {file}; give a JSONL file of requests.")
    return batch.read_requests(file)


def _statuses(resend: list[str] | None) -> tuple[str, ...]:
    return tuple(resend or ())


@contextmanager
def _connected(base_url: str, folder: Path, dialect: str = "auto") -> Iterator[Any]:
    """Connect to a server; warnings are one line each meanwhile, without the place in the code."""
    from arislab import batch

    shown = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: print(f"arislab: {message}", file=sys.stderr)
    try:
        with batch.connect(base_url, folder=folder, dialect=dialect) as server:
            yield server
    finally:
        warnings.showwarning = shown


def _price(price: Any) -> str:
    if price is None:
        return "unknown; data/prices.toml has no entry"
    prompt, answers = price.usd_per_million
    return (
        f"{prompt:g} USD a million prompt tokens, {answers:g} USD a million answer tokens "
        f"({price.as_of}, {price.source})"
    )


def _account(counts: dict[str, int], n: int) -> None:
    print(f"{n:,} requests = " + " + ".join(f"{k:,} {name}" for name, k in counts.items()))
    assert sum(counts.values()) == n  # an account that does not sum up would hide what was lost


def _check(fruitless: dict[str, Any] | None) -> None:
    """Exit 1 if batches completed and nothing that was asked has an answer."""
    if fruitless is not None:
        print(f"arislab: no request has an answer: batch {fruitless['batch_id']} {fruitless['error']}", file=sys.stderr)
        raise typer.Exit(1)


def _table(frame: Any, *, as_json: bool) -> None:
    if as_json:
        print(json_text(frame.write_json()))
        return
    for row in frame.to_dicts():
        name = row["batch_id"] or Path(row["path"]).name
        error = f"  {row['error']}" if row["error"] and row["error"] != row["state"] else ""
        print(f"{name:<40} {row['state']:<11} try {row['attempt']}  {row['n']:>6,} requests: {row['lines']}{error}")
    print(f"{frame.height} batches, {frame['n'].sum():,} requests")


def _write(path: Path, lines: Iterator[str]) -> None:
    """Write a file whole or not at all."""
    try:
        with files.written(path) as file:
            file.writelines(f"{line}\n".encode() for line in lines)
    except OSError as error:
        raise PrerequisiteError(f"cannot write {path} ({error.strerror}); choose another file with --out.") from None
