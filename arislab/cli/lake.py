"""``arislab sql``, ``lineage``, ``candidates``, ``check``: what the lake holds, and what goes in and out."""

import json
import sys
from typing import Annotated

import typer

from arislab.cli.options import Root, Seed, open_lake
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system.text import json_text, print


def sql(
    query: str,
    root: Root = None,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
) -> None:
    """Ask the lake in SQL (DuckDB): one SELECT, which reads the tables and nothing else."""
    import polars as pl

    if form not in ("table", "json", "csv"):
        raise ParameterError(f"--format must be table, json or csv, got {form!r}.")
    answer = open_lake(root, collected=True).sql(query)
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
        _data(answer.with_columns(pl.col(name).list.join(" ") for name in lists).write_csv().removesuffix("\n"))
    else:
        print(json_text(answer.write_json()))


def _data(text: str) -> None:
    """Print what another program reads: as it is, unless it goes to a terminal."""
    if sys.stdout.isatty():
        print(text)
    else:
        sys.stdout.write(f"{text}\n")


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

    life = open_lake(root, collected=True).lineage(custom_id)
    rows = {table: frame.to_dicts() for table, frame in life.items()}
    print(json.dumps(rows, indent=1, default=str) if as_json else as_text(life))


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


_LIKE = {
    "candidate": "the same as",
    "exact": "a copy of",
    "group": "of the group of",
    "near": "a near-copy of",
}

check = typer.Typer(help="Look something over before it costs anything.", no_args_is_help=True)


@check.command("leaks")
def check_leaks(
    task: Annotated[str, typer.Option("--task", help="Task file that writes the questions: a name or a path.")],
    root: Root = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.01, max=1, help="Jaccard similarity from which two are alike.")
    ] = 0.8,
) -> None:
    """Compare the questions of the test split with those of train and validation; exit code 1 if any are alike.

    Phase 5 refuses to report on such candidates; before phase 1 it costs nothing to take them out.
    """
    from arislab import evaluate
    from arislab.task import load

    lake, spec = open_lake(root), load(task)
    everybody = lake["candidates"].read()
    people = everybody.filter(split="test")
    others = everybody.filter(everybody["split"].is_in(["train", "validation"]))
    if not people.height or not others.height:
        raise PrerequisiteError(
            f"{people.height:,} candidates are in the test split and {others.height:,} in train and validation; there "
            "is nothing to compare: arislab import FILE --as candidates."
        )
    recorded = lake["training_data_raw"].read(columns=["candidate_id", "input"], where={"messages": None})
    leaking = evaluate.across(people, others, task=spec, recorded=recorded, threshold=threshold)
    for row in leaking.head(20).iter_rows(named=True):
        print(f"{row['candidate_id']} is {_LIKE[row['kind']]} {row['id']}, similarity {row['similarity']:.2f}")
    n_more = leaking.height - 20
    if n_more > 0:
        print(f"and {n_more:,} more")
    groups = people["group_id"].n_unique()
    print(f"{leaking.height:,} of {people.height:,} test candidates ({groups:,} groups) are like one of another split")
    if leaking.height:
        print(
            "give what belongs together one group (arislab import … --group COLUMN); -p leaks drop reports on the rest"
        )
        raise typer.Exit(1)
