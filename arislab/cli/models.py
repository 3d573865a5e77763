"""``arislab models``, ``promote``, ``rollback``, ``retire``: which version is which, and who decided it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from arislab.cli import exports
from arislab.cli.options import Root, open_lake
from arislab.errors import ParameterError, PrerequisiteError, RegistryError, closest
from arislab.system.text import one_line, print

Version = Annotated[str, typer.Argument(metavar="VERSION", help="Its name, the start of it, or NAME@ALIAS.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; the registry keeps it.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; default the user of this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]

app = typer.Typer(help="List the model versions; show one, compare two.", invoke_without_command=True)


@app.callback()
def listed(context: typer.Context, root: Root = None, *, as_json: AsJson = False) -> None:
    """List the versions with what they are now: champion, candidate, control or retired."""
    from arislab import deploying

    if context.invoked_subcommand is not None:
        return
    registry = _registry(root)
    states = registry.states()
    if as_json:
        _print_json(states)
        return
    for row in states.iter_rows(named=True):
        gate = f"gate: {row['verdict']}" if row["verdict"] else "no gate"
        forced = ", promoted by force" if row["is_forced"] else ""
        print(f"{row['state']:<10} {row['version']}  {row['arm']}, {gate}{forced}, {row['created_at']:%Y-%m-%d %H:%M}")
    served = open_lake(root)["deployments"].read().filter(pl.col("alias").is_not_null()).sort("created_at")
    for row in served.unique(["alias", "endpoint"], keep="last", maintain_order=True).iter_rows(named=True):
        since = f"{row['created_at']:%Y-%m-%d %H:%M}"
        print(f"served     {row['alias']} is {row['version']} at {row['endpoint']}, since {since}")
    for row in deploying.cut_off(registry.events()).iter_rows(named=True):
        since = f"{row['created_at']:%Y-%m-%d %H:%M}"
        print(f"loaded     {row['version']} at {row['endpoint']}, since {since}, by a deployment that did not end;")
        print("           `arislab run deploy` to that server goes on, or has it let go of it")
    if not states.height:
        print("no version is registered yet; `arislab run finetune` trains and registers some")


@app.command()
def show(
    version: Version,
    root: Root = None,
    *,
    card: Annotated[bool, typer.Option("--card", help="Its card as Markdown, with what is known by now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a version: what it learned from, how it was judged, what became of it, whether its files are whole."""
    registry = _registry(root)
    events = registry.events()
    name = _find(events, version)
    own = events.filter(version=name)
    if card:
        _print_card(registry, root, name)
        return
    if as_json:
        _print_json(own)
        return
    state = registry.states().filter(version=name).row(0, named=True)
    row = own.filter(event="register").row(0, named=True)
    print(f"{name}: {state['state']}{', promoted by force' if state['is_forced'] else ''}")
    facts = json.loads(row["detail"] or "{}")
    print(f"  base {row['base_model']} (sha256 {str(facts.get('base_sha256'))[:12]}), arm {row['arm']}")
    print(
        f"  learned from {facts.get('data_version') or 'unknown data'}, training {facts.get('training') or 'unknown'}"
    )
    for gate in own.filter(event="gate").iter_rows(named=True):
        print(
            f"  gate {gate['verdict']}: {gate['reason']} ({json.loads(gate['detail']).get('evaluation_id', 'unknown')})"
        )
    print("\n".join(f"  {_said(event)}" for event in own.iter_rows(named=True) if event["event"] != "gate"))
    try:
        registry.check(name)
    except RegistryError as error:
        print(f"  DAMAGED: {error}")
        raise typer.Exit(1) from None
    print(f"  its files in {registry.folder / name} are what was registered")


def _print_card(registry: Any, root: Path | None, version: str) -> None:
    from arislab import finetune

    lake = open_lake(root)
    tuned = exports.training(lake, version)
    print(finetune.card(registry.manifest(version), tuned, **exports.judged(lake, tuned)))


@app.command()
def history(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Family or version; default all.")] = None,
    root: Root = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show who did what to which version, and why, in the order in which it happened."""
    events = _registry(root).events()
    if name is not None and not (own := events.filter(pl.col("version").str.starts_with(name))).height:
        own = events.filter(name=_family(events, name))
    events = events if name is None else own
    if as_json:
        _print_json(events)
        return
    print("\n".join(map(_said, events.iter_rows(named=True))) or "nothing happened yet")


@app.command()
def diff(one: Version, other: Version, root: Root = None) -> None:
    """Show in what two versions differ: settings, data, versions of packages, what the gate said."""
    registry = _registry(root)
    events = registry.events()
    names = [_find(events, each) for each in (one, other)]
    sides = [_flat(registry.manifest(name)) | _flat(_gate(events, name), "gate.") for name in names]
    print(f"- {names[0]}\n+ {names[1]}")
    for key in sorted({key for side in sides for key in side}):
        values = [side.get(key) for side in sides]
        if values[0] != values[1]:
            print(one_line(f"{key}: {json.dumps(values[0])} -> {json.dumps(values[1])}"))


def promote(
    version: Version,
    alias: Annotated[str, typer.Option("--alias", help="Alias that names it from now on.")] = "champion",
    reason: Reason = "",
    by: By = None,
    root: Root = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Against the gate, or without one; needs a --reason, kept for ever.")
    ] = False,
) -> None:
    """Let an alias name a version that the gate let pass; servers follow with `arislab run deploy`."""
    registry = _registry(root, by)
    events = registry.events()
    name = _find(events, version)
    row = registry.promote(name, alias=alias, reason=reason, is_forced=force)
    family = events.filter(version=name)["name"][0]
    if not row.height:
        print(f"{family}@{alias} is {name} already")
        return
    before = row["previous"][0]
    against = " by force, against the gate" if force else ""
    print(f"{family}@{alias} is {name} now{against} (before: {before or 'none'})")
    print("`arislab run deploy` makes servers follow")


def rollback(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Family; default the only one.")] = None,
    alias: Annotated[str, typer.Option("--alias", help="Alias that goes back.")] = "champion",
    reason: Reason = "",
    by: By = None,
    root: Root = None,
) -> None:
    """Let an alias name the version before again, and switch every server that serves it under the alias.

    A rollback that was killed before all servers followed is completed instead.
    """
    from arislab import deploying

    lake = open_lake(root)
    registry = _registry(root, by)
    families = registry.states()["name"].unique(maintain_order=True).to_list()
    if name is None and len(families) != 1:
        raise ParameterError(f"which family? Name one: {', '.join(families) or 'there is none yet'}.")
    family = _family(registry.events(), name or families[0])
    event = deploying.unfinished(lake["deployments"].read(), registry.events(), family, alias)
    followed = deploying.follow(lake, event, only=event["endpoints"]) if event else {}
    if event and not all(said.startswith("NOT") for said in followed.values()):
        print(f"{family}@{alias} is {event['version']} since an earlier rollback; servers that had not followed do now")
    else:  # none was left half done, or by servers alone that are gone
        event = registry.roll_back(family, alias=alias, reason=reason)
        print(f"{family}@{alias} is {event['version']} again (it was {event['previous']})")
        followed = deploying.follow(lake, event)
    for endpoint, said in followed.items():
        print(f"  {endpoint}: {said}")
    if any(said.startswith("NOT") for said in followed.values()):
        raise typer.Exit(1)


def retire(version: Version, reason: Reason = "", by: By = None, root: Root = None) -> None:
    """Say that a version is never promoted again; its folder stays, as records need it."""
    registry = _registry(root, by)
    name = _find(registry.events(), version)
    done = registry.retire(name, reason=reason).height
    print(f"{name} is retired{'' if done else ' already'}")


def _registry(root: Any, by: str | None = None) -> Any:
    from arislab import models

    return models.Registry(open_lake(root), actor=by)


def _family(events: pl.DataFrame, name: str) -> str:
    """The family that a name means: its own, or that of the task."""
    known = events["name"].unique(maintain_order=True).to_list()
    meant = name if name in known else name.replace("_", "-")
    if meant not in known:
        raise PrerequisiteError(
            f"there is no family {name!r}; {closest(name, known) if known else 'there is none yet'}."
        )
    return meant


def _find(events: pl.DataFrame, text: str) -> str:
    """The version that is meant by its name, the start of it, or an alias."""
    from arislab import models

    if not text.strip():
        raise PrerequisiteError("a version has a name; `arislab models` lists them.")
    if "@" in text:
        name, _, alias = text.partition("@")
        family = _family(events, name)
        if (version := models.named(events, family, alias)) is None:
            raise PrerequisiteError(f"{text} names no version yet; `arislab models` lists them.")
        return version
    known = events.filter(event="register")["version"]
    meant = known.filter(known.str.starts_with(text)).unique(maintain_order=True).to_list()
    if text in meant or len(meant) == 1:
        return text if text in meant else meant[0]
    if meant:
        raise PrerequisiteError(f"{text!r} may be {', '.join(meant[:5])}; give more of the name.")
    return str(models.registered(events, text)["version"])  # refused with the closest name


def _gate(events: pl.DataFrame, version: str) -> dict[str, Any]:
    gates = events.filter(event="gate", version=version)["detail"]
    said = json.loads(gates[-1]) if gates.len() else {}
    return {name: said.get(name) for name in ("verdict", "difference", "low", "high", "n", "evaluation_id")}


def _flat(value: Any, start: str = "") -> dict[str, Any]:
    """An object of objects as dotted names to values; files and digests of weights say nothing beside the name."""
    if not isinstance(value, dict):
        return {start.rstrip("."): value}
    return {k: v for key, each in value.items() if key != "files" for k, v in _flat(each, f"{start}{key}.").items()}


def _said(row: dict[str, Any]) -> str:
    what = row["event"] + (f" {row['verdict']}" if row["verdict"] else "") + (" BY FORCE" if row["is_forced"] else "")
    alias = f" as {row['name']}@{row['alias']}" if row["alias"] else ""
    previous = f" (before: {row['previous']})" if row["previous"] else ""
    reason = f": {row['reason']}" if row["reason"] else ""
    return one_line(
        f"{row['created_at']:%Y-%m-%d %H:%M:%S} {what} {row['version']}{alias}{previous} by {row['actor'] or 'unknown'}"
        f"{reason}"
    )


def _print_json(frame: pl.DataFrame) -> None:
    text = json.dumps(frame.to_dicts(), indent=1, default=str)
    if sys.stdout.isatty():
        print(text)
    else:
        sys.stdout.write(f"{text}\n")
