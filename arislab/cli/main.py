"""The ``arislab`` command. Each verb joins the package with the lake; what decides a result stands in the notebooks."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli import batch as batch_commands
from arislab.cli import imports as import_commands
from arislab.cli import runs as run_commands
from arislab.cli.runs import open_lake, perform
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system.paths import enter
from arislab.system.text import json_text, print

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn batch LLM output into training data you can defend.",
)
app.add_typer(batch_commands.app, name="batch")
app.add_typer(run_commands.app, name="runs")
app.command()(run_commands.rerun)
app.command()(run_commands.verify)
app.command()(run_commands.resume)
app.command(name="import")(import_commands.import_file)

Root = run_commands.Root
Seed = Annotated[int, typer.Option("--seed", help="Base of every random choice.")]


@app.command()
def demo(
    root: Root = None,
    until: Annotated[str, typer.Option("--until", help="Last phase to run.")] = "evaluate",
    seed: Seed = 1,
) -> None:
    """Run the five phases on synthetic candidates with the embedded server and model: no network, no GPU."""
    from arislab import runs

    where = enter(root)
    phases = list(runs.PHASES)
    if until not in phases:
        raise ParameterError(f"--until must be one of {', '.join(phases)}, got {until!r}.")
    known = open_lake(None)["candidates"].read(columns=["candidate_id"])["candidate_id"]
    n_foreign = int((~known.str.starts_with(f"s{seed}-")).sum())
    if n_foreign:
        print(
            f"this lake has {n_foreign:,} candidates of another origin; they are kept, and seed {seed} only draws answers: for a fresh one give --root DIR"
        )
    began = time.monotonic()
    for phase in phases[: phases.index(until) + 1]:
        perform(phase, {"seed": seed}, where)
    print(
        f"demo finished in {time.monotonic() - began:.0f} s; records in {where / 'papermill_runs'}; `arislab runs` lists them, `arislab sql` asks the lake"
    )
    if until == "evaluate":
        print(
            "approval policy: score (nobody reviewed; review in notebooks/review.ipynb, then run icl and finetune with -p approve reviewed)"
        )


@app.command(context_settings={"help_option_names": []})
def run(
    context: typer.Context,
    phase: Annotated[str | None, typer.Argument(help="generate, curate, icl, finetune or evaluate.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="A parameter of the notebook; repeat it.")
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Option("-f", help="YAML file with parameters; -p goes before it; repeat it.")
    ] = None,
    root: Root = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout", min=1, help="Longest run, seconds.")] = None,
    cell_timeout_s: Annotated[
        float | None, typer.Option("--cell-timeout", min=1, help="Longest cell, seconds.")
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run of this phase to end.")] = False,
    show_help: Annotated[bool, typer.Option("--help", help="Of a phase: its parameters.")] = False,
) -> None:
    """Run one phase as a recorded run; `arislab run PHASE --help` lists its parameters."""
    if phase is None or show_help:
        print(context.get_help() if phase is None else run_commands.help_of(phase))
        raise typer.Exit(0 if show_help else 2)
    given, origin = run_commands.given(parameters or (), files or ())
    limits = {"timeout_s": timeout_s, "cell_timeout_s": cell_timeout_s}
    perform(phase, given, enter(root), given_from=origin, wait=wait, **limits)


@app.command()
def sql(
    query: str,
    root: Root = None,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
) -> None:
    """Ask the lake in SQL (DuckDB): one SELECT, which reads the tables and nothing else."""
    import polars as pl

    if form not in ("table", "json", "csv"):
        raise ParameterError(f"--format must be table, json or csv, got {form!r}.")
    answer = open_lake(root).sql(query)
    if form == "table":
        with pl.Config(
            tbl_rows=200,
            tbl_cols=50,
            fmt_str_lengths=60,
            tbl_hide_dataframe_shape=True,
            tbl_hide_column_data_types=True,
        ):
            print(answer)
    elif form == "csv":
        lists = [name for name, dtype in answer.schema.items() if dtype == pl.List(pl.String)]
        _data(answer.with_columns(pl.col(name).list.join(" ") for name in lists).write_csv())
    else:
        print(json_text(answer.write_json()))


def _data(text: str) -> None:
    """Print what another program reads: as it is, unless it goes to a terminal."""
    if sys.stdout.isatty():
        print(text)
    else:
        sys.stdout.write(f"{text}\n")


@app.command()
def doctor(
    root: Root = None,
    back: Annotated[
        str | None, typer.Option("--back", metavar="TABLE@VERSION", help="Make a whole version the newest one again.")
    ] = None,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Keep all that can be read; set the rest aside; one row per key.")
    ] = False,
) -> None:
    """Read the lake to the last value: which table is damaged or holds a key twice, and which version is whole."""
    from arislab.lake import check as lake_check

    lake = open_lake(root)
    if back is not None:
        name, _, version = back.partition("@")
        if not version.isdecimal():
            raise ParameterError(f"--back must be TABLE@VERSION, such as reviews@3, got {back!r}.")
        print(lake_check.back(lake, name, int(version)))
    states = lake_check.examine(lake)
    for state in [s for s in states if not s.is_well] if repair else []:
        print("\n".join(f"{state.table}: {step}" for step in lake_check.repair(lake, state)))
    states = lake_check.examine(lake) if repair else states
    print("\n".join(map(str, states)) or "the lake is empty")
    if not all(state.is_well for state in states):
        raise typer.Exit(1)


@app.command()
def lineage(
    custom_id: Annotated[
        str, typer.Argument(help="Of the request, the start of it, or a candidate_id that was asked about once.")
    ],
    root: Root = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print every row, by table, as JSON.")] = False,
) -> None:
    """Show the life of a row: candidate, request, output, scores, reviews, sets, adapters, test answers."""
    from arislab.lake.lineage import as_text

    found = open_lake(root).lineage(custom_id)
    rows = {table: frame.to_dicts() for table, frame in found.items()}
    print(json.dumps(rows, indent=1, default=str) if as_json else as_text(found))


@app.command()
def candidates(
    n: Annotated[int, typer.Option("--n", help="How many.", min=1)] = 7500,
    seed: Seed = 1,
    root: Root = None,
    duplicates: Annotated[float, typer.Option(help="Share of exact copies, 0..0.5.", min=0, max=0.5)] = 0.01,
    near_duplicates: Annotated[float, typer.Option(help="Share of near-copies, 0..0.5.", min=0, max=0.5)] = 0.03,
) -> None:
    """Compose synthetic job profiles for the embedded model and add them to the lake."""
    from arislab.tiny.candidates import compose

    frame = compose(n, seed=seed, duplicate_fraction=duplicates, near_duplicate_fraction=near_duplicates)
    lake = open_lake(root)
    lake["candidates"].upsert(frame)
    splits = dict(frame.group_by("split").len().iter_rows())
    print(
        f"{frame.height:,} candidates = "
        + " + ".join(f"{splits.get(s, 0):,} {s}" for s in ("train", "validation", "test"))
        + f"; {frame['group_id'].n_unique():,} groups; in {lake.path}"
    )


@app.command()
def export(
    use_case: Annotated[str, typer.Option("--use-case", help="Whose examples.")] = "general",
    task: Annotated[
        str | None, typer.Option("--task", help="Task file: a name or a path; default that of the set.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model that was asked; default any.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: print.")] = None,
    root: Root = None,
    *,
    icl: Annotated[
        bool, typer.Option("--icl", help="The newest chosen in-context examples, as chat messages.")
    ] = False,
) -> None:
    """Write what was chosen in the form that other programs take (run records: `arislab runs export`)."""
    if not icl:
        raise ParameterError("export needs --icl: what to write.")
    from arislab import curate, review
    from arislab.icl import prompt
    from arislab.task import load

    lake = open_lake(root)
    chosen = _chosen(lake, use_case=use_case, task=task, model=model)
    spec = load(task or chosen["task"])
    then = curate.versions(chosen["data_version"])
    stored = lake["training_data_curated"].read(version=then["training_data_curated"])
    curated = review.fold(stored, lake["reviews"].read(version=then["reviews"])) if "reviews" in then else stored
    found = prompt.messages(chosen, curated, lake["candidates"].read(where={"split": "train"}), spec)
    policy = chosen["approve_policy"]
    if withdrawn := curate.withdrawn(chosen["example_ids"], stored, lake["reviews"].read(), approve=policy):
        print(
            f"arislab: WARNING: {len(withdrawn)} of {chosen['k']} examples may not be used any more by the decisions of today (first: "
            f"{withdrawn[0]!r}); `arislab run icl` chooses anew.",
            file=sys.stderr,
        )
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if chosen["scorer_version"] not in (None, spec.version):
        print(
            f"arislab: the task file is another one now ({spec.version}) than when the examples were chosen ({chosen['scorer_version']}).",
            file=sys.stderr,
        )
    if out is None:
        print(json_text(text))
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write {out} ({error.strerror or error}); give another file with --out."
        ) from None
    print(f"{chosen['k']} examples of {chosen['id']} for {use_case}, as {len(found['messages'])} messages, in {out}")


def _chosen(lake: Any, *, use_case: str, task: str | None, model: str | None) -> dict[str, Any]:
    """Return the newest set of examples that fits, or say which there are."""
    sets = lake["icl_examples"].read().sort("created_at")
    fits = sets
    for column, value in (("use_case", use_case), ("task", Path(task).stem if task else None), ("model", model)):
        fits = fits if value is None else fits.filter(fits[column] == value)
    if not fits.height:
        asked = ", ".join(f"{n} {v!r}" for n, v in (("use case", use_case), ("task", task), ("model", model)) if v)
        known = sorted({f"{s['use_case']} ({s['task']}, {s['model']})" for s in sets.to_dicts()})
        raise PrerequisiteError(
            f"no examples were chosen for {asked}; there are: {', '.join(known) or 'none'}. `arislab run icl -p use_case {use_case}` searches some."
        )
    return dict(fits.row(-1, named=True))


@app.command()
def serve(
    data: Annotated[Path, typer.Option("--data", help="Folder for files, spool and database; one server a folder.")],
    port: Annotated[int, typer.Option(help="0 = a free one.")] = 0,
    host: str = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token; made if absent (mode 0600).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Weights for the in-process engine: a folder, or tiny.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder of LoRA adapters to offer as models.")] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(help="URL of a chat server (…/v1); repeat it to balance several.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of the in-process engine; default min(2, cores).")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="For tests: echo (answers with the question), faulty, or faulty:NAME=NUMBER,… (echo with faults)."
        ),
    ] = None,
    vllm: Annotated[str | None, typer.Option(help="Start a vLLM with this model: a folder, a name, or tiny.")] = None,
    vllm_python: Annotated[str | None, typer.Option(help="The Python that has vLLM; default this one.")] = None,
    vllm_args: Annotated[list[str] | None, typer.Argument(help="After --: options passed on to vLLM.")] = None,
    max_window: Annotated[float, typer.Option(min=0.01, help="Hours after which a batch expires.")] = 24.0,
    quota_gb: Annotated[float | None, typer.Option(min=0.0, help="Disk for files and results, in 10^9 bytes.")] = None,
    max_answer_mb: Annotated[float, typer.Option(min=0.1, help="Longest answer of an upstream, in 2^20 bytes.")] = 32.0,
    media_host: Annotated[
        list[str] | None, typer.Option(help="Host that image and file URLs may name; default none; repeat it.")
    ] = None,
    parent_pid: Annotated[int | None, typer.Option(help="Stop when this process ends.")] = None,
    *,
    group_by_prefix: Annotated[
        bool, typer.Option("--group-by-prefix", help="Dispatch lines with the same prefix together.")
    ] = False,
) -> None:
    """Serve OpenAI Files + Batches over an in-process model or any chat server."""
    from arislab.server.app import serve as start
    from arislab.server.limits import Limits

    chosen = [x for x in (model, engine, upstream, vllm) if x]
    if len(chosen) > 1:
        raise ParameterError("give one of --model, --upstream, --vllm or --engine.")
    start(
        data,
        host=host,
        port=port,
        token_file=token_file,
        model=model or (None if chosen else "tiny"),
        adapters=adapters,
        upstream=list(upstream or ()),
        workers=workers,
        parent_pid=parent_pid,
        engine=engine,
        vllm=vllm,
        vllm_python=vllm_python,
        vllm_args=vllm_args or [],
        limits=Limits(
            window_s=round(max_window * 3600),
            quota_bytes=None if quota_gb is None else round(quota_gb * 1e9),
            answer_bytes=round(max_answer_mb * (1 << 20)),
            media_hosts=frozenset(host.lower() for host in media_host or ()),
        ),
        group_by_prefix=group_by_prefix,
    )


def joined(arguments: list[str]) -> list[str]:
    """Write ``-p NAME VALUE`` as ``-p NAME=VALUE``: the parser knows options with one value only."""
    out, rest = [], list(arguments)
    while rest:
        out.append(rest.pop(0))
        if out[-1] == "-p" and len(rest) > 1 and "=" not in rest[0]:
            out.append(f"{rest.pop(0)}={rest.pop(0)}")
    return out
