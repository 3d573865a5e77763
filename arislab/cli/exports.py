"""``arislab export``: examples, pairs, a training or a model in the form that other programs take. Nothing is sent."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from arislab.cli.options import Root, open_lake
from arislab.errors import ParameterError, PrerequisiteError, TrainingError, closest
from arislab.system import files
from arislab.system.text import json_text, print


def export(
    use_case: Annotated[str, typer.Option("--use-case", help="Whose examples.")] = "general",
    task: Annotated[
        str | None, typer.Option("--task", help="Task file: a name or a path; default that of the set.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model that was asked; default any.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write, or folder to make; default: print.")] = None,
    root: Root = None,
    *,
    icl: Annotated[
        bool, typer.Option("--icl", help="The newest chosen in-context examples, as chat messages.")
    ] = False,
    preferences: Annotated[
        bool,
        typer.Option("--preferences", help="Pairs of a better and a worse answer, as chat JSONL for DPO; to --out."),
    ] = False,
    split: Annotated[str, typer.Option("--split", help="Of the pairs: train or validation.")] = "train",
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source", help="Of the pairs: edit, approve-reject, pairwise, judged; repeat it; default people's."
        ),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="What the newest adapter learned from, or --adapter; to --out.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help="Of the training: openai, axolotl or llama-factory.")
    ] = "openai",
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="VERSION", help="An adapter with a card, for PEFT and vLLM.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="The adapter merged into its base, compared on held-out examples.")
    ] = False,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Folder of the adapter's base; default found by its name.")
    ] = None,
) -> None:
    """Write what was chosen or trained in the form that other programs take (run records: `arislab runs export`)."""
    wanted = [icl, preferences, training or adapter is not None]
    if sum(wanted) != 1 or (merged and (training or adapter is None)):
        raise ParameterError(
            "export needs one of --icl, --preferences, --training or --adapter VERSION (with --merged, if you like): "
            "what to write."
        )
    lake = open_lake(root, collected=True)
    if preferences:
        _export_preferences(lake, out, task=task, split=split, sources=source)
    elif training:
        _export_training(lake, out, version=adapter, form=form, base_model=base_model)
    elif adapter is not None:
        _export_model(lake, out, version=adapter, base_model=base_model, is_merged=merged)
    else:
        _export_icl(lake, out, use_case=use_case, task=task, model=model)


def _export_icl(lake: Any, out: Path | None, *, use_case: str, task: str | None, model: str | None) -> None:
    """Write the newest set of examples that fits, as the messages that it was chosen as."""
    from arislab import curate, review
    from arislab.icl import prompt
    from arislab.task import load

    chosen = _chosen(lake, use_case=use_case, task=task, model=model)
    spec = load(task or chosen["task"])
    then = curate.versions(chosen["data_version"])
    stored = lake["training_data_curated"].read(version=then["training_data_curated"])
    curated = review.fold(stored, lake["reviews"].read(version=then["reviews"])) if "reviews" in then else stored
    body = prompt.messages(chosen, curated, lake["candidates"].read(where={"split": "train"}), spec)
    certified = curate.in_force(lake["certificates"].read(), lake["certified_rows"].read())
    policy = {"approve": chosen["approve_policy"], "certified": certified}
    if withdrawn := curate.withdrawn(chosen["example_ids"], stored, lake["reviews"].read(), **policy):
        print(
            f"arislab: WARNING: {len(withdrawn)} of {chosen['k']} examples may not be used any more by the decisions "
            f"of today (first: {withdrawn[0]!r}); `arislab run icl` chooses anew.",
            file=sys.stderr,
        )
    text = json.dumps(body, indent=1, ensure_ascii=False)
    if chosen["scorer_version"] not in (None, spec.version):
        print(
            f"arislab: the task file is another one now ({spec.version}) than when the examples were chosen "
            f"({chosen['scorer_version']}).",
            file=sys.stderr,
        )
    if out is None:
        print(json_text(text))
        return
    with _writing(out):
        files.replace(out, text + "\n")
    print(f"{chosen['k']} examples of {chosen['id']} for {use_case}, as {len(body['messages'])} messages, in {out}")


@contextmanager
def _writing(out: Path, what: str = "file") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PrerequisiteError(
            f"cannot write {out} ({error.strerror or error}); give another {what} with --out."
        ) from None


def _export_preferences(
    lake: Any, out: Path | None, *, task: str | None, split: str, sources: Sequence[str] | None
) -> None:
    """Write the pairs that the decisions of today still bear out, and beside them where they come from."""
    from arislab import pairwise, preferences

    if out is None:
        raise ParameterError("export --preferences needs --out FILE: the pairs, and FILE.provenance.json beside it.")
    if split not in preferences.SPLITS:
        raise ParameterError(f"--split must be one of {', '.join(preferences.SPLITS)}, got {split!r}.")
    wanted = list(sources or preferences.PEOPLE)
    if strange := [name for name in wanted if name not in preferences.SOURCES]:
        raise ParameterError(f"--source must be one of {', '.join(preferences.SOURCES)}, got {strange[0]!r}.")
    tables = ("preferences", "reviews", "arm_pairs", "arm_votes")
    versions = {table: lake[table].version for table in tables}
    where = {"split": split, "source": wanted} | ({"task": Path(task).stem} if task else {})
    stored = lake["preferences"].read(where=where, version=versions["preferences"])
    compared = lake["arm_pairs"].read(columns=["pair_id", "shown_sha256", "arm_is_left"], version=versions["arm_pairs"])
    votes = pairwise.counting(compared, lake["arm_votes"].read(version=versions["arm_votes"]))
    gone = preferences.withdrawn(stored, lake["reviews"].read(version=versions["reviews"]), votes)
    pairs = stored.filter(~stored["pair_id"].is_in(gone)).sort("pair_id")
    if gone:
        print(
            f"arislab: WARNING: about {len(gone):,} of {stored.height:,} pairs people have decided otherwise, or more, "
            f"since (first: {gone[0]!r}); they are left out. `arislab run curate` mines anew.",
            file=sys.stderr,
        )
    if not pairs.height:
        raise PrerequisiteError(
            f"there is no pair of {', '.join(wanted)} in the {split} split; review some answers (several of one "
            "question, or edits), then `arislab run curate`."
        )
    with _writing(out):
        n = preferences.write_jsonl(pairs, out)
        facts = preferences.provenance(pairs, out, versions=versions, left_out=len(gone))
        files.replace(
            out.with_name(f"{out.name}.provenance.json"), json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        )
    by_source = ", ".join(f"{count:,} {name}" for name, count in facts["by_source"].items())
    print(f"{n:,} pairs of the {split} split (by source: {by_source}), in {out}")


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
            f"no examples were chosen for {asked}; there are: {', '.join(known) or 'none'}. `arislab run icl -p "
            f"use_case {use_case}` searches some."
        )
    return dict(fits.row(-1, named=True))


def _export_training(lake: Any, out: Path | None, *, version: str | None, form: str, base_model: str | None) -> None:
    """Write what an adapter learned from, and its settings, for a service or another trainer."""
    from arislab import finetune

    folder = _folder(out, "--training")
    tuned = training(lake, version)
    learned, held_out = _learned(lake, tuned)
    with _writing(folder, "folder"):
        account = finetune.export_training(
            learned, folder, held_out=held_out, tuned=tuned, form=form, base_model=base_model
        )
    for name, counts in account["rows"].items():
        print(f"{name}: " + ", ".join(f"{n:,} {status}" for status, n in counts.items()))
    if "checked" in account:
        print(f"checked: {account['checked']}")
        print(f"not checked: {account['not_checked']}")
    print(f"training {tuned['id']} for {form} in {folder}; account.json says what was left out and why")


def _export_model(lake: Any, out: Path | None, *, version: str, base_model: str | None, is_merged: bool) -> None:
    """Write an adapter, or its base with it, and a card."""
    from arislab import finetune

    folder, tuned = _folder(out, "--adapter"), training(lake, version)
    facts = judged(lake, tuned)
    if is_merged:
        learned, held_out = _learned(lake, tuned)
        facts["prompts"] = held_out if held_out.height else learned
        facts["base_model"] = base_model or _known(tuned["base_model"])
    try:
        with _writing(folder, "folder"):
            agreement = finetune.export_model(lake.models / version, folder, tuned, **facts)
    except TrainingError as error:
        raise PrerequisiteError(str(error)) from None
    if agreement:
        print(
            f"{agreement.n_equal} of {agreement.n} greedy answers equal the adapter's; logits differ by at most "
            f"{agreement.logit_difference:.2g} ({agreement.dtype}, {agreement.seconds:g} s)"
        )
    print(f"{version}{' merged into its base' if agreement else ''}, with a card, in {folder}")


def judged(lake: Any, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the lake knows of a training for its card: as ``finetune.card`` takes it.

    Args:
        lake: The lake.
        tuned: Row of ``finetuning_runs``.
    """
    import polars as pl

    from arislab import evaluate

    version = tuned["model_path"]
    trained = lake["finetuning_runs"].read(where={"arm": "control", "run_id": tuned["run_id"]}).to_dicts()
    scores = lake["evaluations"].read(where={"model": version}).sort("created_at")
    if scores.height:
        scores = lake["evaluations"].read(where={"evaluation_id": scores["evaluation_id"][-1]})
    roles = lake["training_rows"].read(where={"model_path": version}).group_by("role").len()
    who = {"candidate_id": scores["candidate_id"].unique().to_list()}
    people = lake["candidates"].read(columns=["candidate_id", "group_id"], where=who)
    reported = evaluate.over_seeds(scores.with_columns(pl.coalesce("report", "quality").alias("report")))
    events = lake["model_events"].read(where={"version": version}).sort("seq")
    gates, forced = (events.filter(of).to_dicts() for of in (pl.col("event") == "gate", pl.col("is_forced")))
    return {
        "roles": dict(roles.iter_rows()),
        "control": trained[0] if trained else None,
        "scores": evaluate.summary(reported, by="report", groups=people),  # as phase 5 does
        "gate": gates[-1] if gates else None,
        "forced": forced[-1]["reason"] if forced else None,
    }


def _folder(out: Path | None, option: str) -> Path:
    if out is None:
        raise ParameterError(f"export {option} needs --out DIR: the folder to make.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrerequisiteError(f"{out} exists already; give a new folder with --out.")
    return out


def _known(base: str) -> str:
    """Return where a base lies by the name that a training recorded."""
    return "tiny" if base.startswith("arislab-tiny-") else base


def training(lake: Any, version: str | None) -> dict[str, Any]:
    """Return the training of an adapter, or the newest on curated examples."""
    rows = lake["finetuning_runs"].read().sort("created_at", "id")
    fits = rows.filter(arm="curated") if version is None else rows.filter(model_path=version)
    if not fits.height:
        known = rows["model_path"].to_list()
        which = (
            f"no adapter {version!r} was trained; {closest(version, known)}"
            if version and known
            else "no adapter is trained"
        )
        raise PrerequisiteError(f"{which}; `arislab run finetune` trains some.")
    return dict(fits.row(-1, named=True))


def _learned(lake: Any, tuned: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the rows that a training learned from, and those held out, as they were then.

    Without those that the decisions of today no longer let be used.
    """
    from arislab import curate, review

    if tuned["arm"] != "curated":
        raise PrerequisiteError(
            f"{tuned['model_path']} learned from outputs that nothing chose; only curated examples are exported."
        )
    then, table = curate.versions(tuned["data_version"]), lake["training_data_curated"]
    stored = table.read(version=then["training_data_curated"])
    texts = review.fold(stored, lake["reviews"].read(version=then["reviews"])) if "reviews" in then else stored
    roles = lake["training_rows"].read(where={"model_path": tuned["model_path"]})
    ids = roles.filter(roles["role"].is_in(["trained", "held out"]))["id"].sort().to_list()
    certified = curate.in_force(lake["certificates"].read(), lake["certified_rows"].read())
    policy = {"approve": tuned["approve_policy"], "certified": certified}
    gone = set(curate.withdrawn(ids, table.read(), lake["reviews"].read(), **policy))
    if gone:
        print(
            f"arislab: WARNING: {len(gone):,} of {len(ids):,} examples may not be used any more by the decisions of "
            f"today (first: {min(gone)!r}); they are left out. `arislab run finetune` trains anew.",
            file=sys.stderr,
        )
    held = set(roles.filter(role="held out")["id"])
    rows = texts.filter(texts["id"].is_in([name for name in ids if name not in gone])).sort("id")
    return rows.filter(~rows["id"].is_in(list(held))), rows.filter(rows["id"].is_in(list(held)))
