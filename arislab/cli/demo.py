"""``arislab demo``: the five phases in a row, made-up candidates with a tiny model, or real text with a real one."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli import report
from arislab.cli.options import Root, Seed, open_lake
from arislab.cli.runs import perform
from arislab.errors import ParameterError, PrerequisiteError
from arislab.system import paths
from arislab.system.paths import SHIPPED, enter
from arislab.system.text import one_line, print

MODELS = ("tiny", "smollm2")
_ARMS = ("baseline", "icl", "finetuned", "icl+finetuned", "control")
_ASKED: dict[str, Any] = {"temperature": 0.4, "max_tokens": 32}
_SMOLLM2: dict[str, dict[str, Any]] = {
    "generate": {**_ASKED, "n_candidates": 425, "samples": 1, "examples": "tasks/key_terms.jsonl"},
    "curate": {"keep_fraction": 0.2},
    "icl": {**_ASKED, "budget": 400, "pool_size": 40, "n_holdout": 68},
    "finetune": {**_ASKED, "learning_rate": 1e-3, "batch_size": 8, "n_validation": 68},
    "evaluate": {**_ASKED, "n_test": 330},
}
"""Phase to parameters, sized for a quarter of an hour a seed on two cores with nothing else to do (805 s were
measured); for all others the notebooks' defaults hold."""
_QUICK: dict[str, dict[str, Any]] = {
    "generate": {"n_dry_run": 8},
    "icl": {"k": 2, "budget": 60, "pool_size": 8, "n_search": 20, "n_holdout": 20},
    "finetune": {"num_train_epochs": 1, "n_validation": 10},
    "evaluate": {"n_test": 20},
}
"""The same for ``--quick``: as few rows as each phase takes, whatever the model."""


def demo(
    root: Root = None,
    until: Annotated[str, typer.Option("--until", help="Last phase to run.")] = "evaluate",
    seed: Seed = 1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Run so many seeds, each in a root of its own.")] = 1,
    model: Annotated[
        str, typer.Option("--model", help="tiny: made-up candidates; smollm2: a real model on sentences of job ads.")
    ] = "tiny",
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few rows a phase: to see that all works; its numbers show nothing.")
    ] = False,
) -> None:
    """Run the five phases and deploy what the gate lets pass: on synthetic candidates or real text, without a GPU."""
    from arislab import runs

    where = enter(root)
    phases = list(runs.PHASES)
    if until not in phases:
        raise ParameterError(f"--until must be one of {', '.join(phases)}, got {until!r}.")
    if model not in MODELS:
        raise ParameterError(f"--model must be one of {', '.join(MODELS)}, got {model!r}.")
    if seeds > 1 and paths.is_url(lake := paths.lake()):
        raise ParameterError(
            f"--seeds {seeds} runs each seed in a root of its own, and all would write to {lake}; run them one by one, "
            "each with a --root and a --lake of its own, or without --lake."
        )
    given = _synthetic(seed) if model == "tiny" else _real(where)
    if quick:
        given = {phase: given.get(phase, {}) | _QUICK.get(phase, {}) for phase in phases}
        # of those that phase 1 composes a tenth are for validation, and the search wants 20 groups of them
        given["generate"]["n_candidates"] = 400 if model == "tiny" else 80
    places = {each: where / f"seed-{each}" if seeds > 1 else where for each in range(seed, seed + seeds)}
    for each, place in places.items():
        began = time.monotonic()
        enter(place)
        if model == "smollm2":
            _import_sentences()
        for phase in phases[: phases.index(until) + 1]:
            record = perform(phase, {**given.get(phase, {}), "seed": each}, place, is_alone=False)
        if until == "evaluate":
            _deploy(place, given.get("finetune", {}) | given.get("evaluate", {}))
        print(f"\ndemo finished in {time.monotonic() - began:.0f} s")
    if until != "evaluate":
        print(f"next: {report.next_step(record)}")
        return
    if seeds > 1:
        print(_side_by_side(places))
    else:
        print("\n".join(report.table({arm: value for arm, value in (record.headline or {}).items() if arm in _ARMS})))
    print(_ways_on(record.folder / "notebook.ipynb", report.at(place)))


def _ways_on(notebook: Path, root: str) -> str:
    """What to do after a demo, a line each: what it is for, and what to type."""
    ways = {
        "the result with its figures": str(notebook),
        "notebooks and records": f"arislab lab{root}",
        "all runs": f"arislab runs{root}",
        "check that a record is true": f"arislab verify evaluate{root}",
        "next: people review": f"arislab review{root}",
        "and what they approved counts": f"arislab run icl -p approve reviewed{root}",
    }
    return "\n".join(f"  {what:<30}  {how}" for what, how in ways.items())


def _deploy(place: Path, given: Mapping[str, Any]) -> None:
    """Have the embedded server answer with the new champion, if there is one, and show an answer through its alias."""
    from arislab import models, runs
    from arislab.task import load

    _, notebook = runs.find_notebook("deploy")
    defaults = {name: one.default for name, one in runs.parameters_of(notebook).items()}
    named = defaults | dict(given)
    lake, family = open_lake(place), load(str(named["task"])).family
    if models.Registry(lake).named(family) is None:
        print("deploy: nothing was promoted, so nothing is deployed; the gate's reasons stand in phase 5")
        return
    perform(
        "deploy",
        {name: named[name] for name in ("task", "base_url", "base_model", "max_tokens")},
        place,
        is_alone=False,
    )
    alias = models.alias_of(family)
    served = lake["deployments"].read(where={"alias": alias}).sort("created_at").row(-1, named=True)
    through = json.loads(served["smoke_test"])["through_alias"]
    answer = lake["training_data_raw"].read(where={"custom_id": through}).row(0, named=True)
    print(one_line(f"{alias} ({answer['model_returned']}) answers: {answer['llm_output']}")[:300])


def _synthetic(seed: int) -> dict[str, dict[str, Any]]:
    """Nothing but the defaults: phase 1 composes the candidates."""
    known = open_lake(None)["candidates"].read(columns=["candidate_id"])["candidate_id"]
    n_foreign = int((~known.str.starts_with(f"s{seed}-")).sum())
    if n_foreign:
        print(
            f"this lake has {n_foreign:,} candidates of another origin; they are kept, and seed {seed} only draws "
            "answers: for a fresh one give --root DIR"
        )
    return {}


def _real(where: Path) -> dict[str, dict[str, Any]]:
    """The parameters of each phase, with the folder of the model, which is written at the first call."""
    from arislab.smollm2 import converted

    folder = str(converted(where / "data" / "models"))
    phases = {phase: {**given, "task": "key_terms"} for phase, given in _SMOLLM2.items()}
    for phase, given in phases.items():
        if phase != "curate":  # asks no model
            given["base_url"] = f"embedded:{folder}"
    phases["finetune"]["base_model"] = folder
    return phases


def _import_sentences() -> None:
    """Bring the sentences of data/sample into the lake: an ad is a group, and stays in the split that the file says.

    Raises:
        PrerequisiteError: The lake has candidates of another origin, whom the phases would ask about too.
    """
    from arislab.inputs import files, importing
    from arislab.task import load

    lake, path = open_lake(None), SHIPPED / "data" / "sample" / "skillspan.jsonl.gz"
    known = lake["candidates"].read(columns=["group_id"])["group_id"]
    ads = {f"g-{ad}" for ad in files.read(path).texts("ad", "--group")}
    if n_foreign := int((~known.is_in(ads)).sum()):
        raise PrerequisiteError(
            f"this lake has {n_foreign:,} candidates of another origin, and the task key_terms knows nothing of them; "
            "give --root DIR."
        )
    columns: dict[str, Any] = {"id": "id", "group": "ad", "split": "split"}
    for line in importing.candidates(lake, path, load("key_terms"), **columns, read={"types": {}}):
        print(line)


def _side_by_side(places: dict[int, Path]) -> str:
    """What phase 5 reports of each arm under each seed, and the mean and range over them: lines of text."""
    import polars as pl

    from arislab.lake import Lake

    means = []
    for seed, place in places.items():
        rows = Lake(place / "data" / "lake")["evaluations"].read(columns=["evaluation_id", "arm", "report"])
        newest = rows.filter(pl.col("evaluation_id") == pl.col("evaluation_id").max())  # names begin with the time
        by_arm = newest.group_by("arm", maintain_order=True).agg(pl.col("report").mean())
        means.append(by_arm.with_columns(seed=pl.lit(seed)))
    table = pl.concat(means)
    lines = [f"{'arm':<16}" + "".join(f"{f'seed {seed}':>9}" for seed in places) + "     mean  range over seeds"]
    for (arm,), rows in table.group_by("arm", maintain_order=True):
        values = rows["report"].to_list()
        shown = "".join(f"{'-' if value is None else f'{value:.3f}':>9}" for value in values)
        known = [value for value in values if value is not None] or [float("nan")]
        lines.append(f"{arm:<16}{shown}{sum(known) / len(known):>9.3f}  {min(known):.3f} to {max(known):.3f}")
    return "\n".join(lines)
