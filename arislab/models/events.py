"""What the events of model versions say: states, aliases, and the ways back. Frames in, frames out."""

import json
import re
from typing import Any

import polars as pl

from arislab.errors import RegistryError, closest

CHAMPION = "champion"
EVENTS = ("register", "gate", "alias", "rollback", "retire", "load", "canary", "switch", "deploy")
"""register: an adapter is known; gate: it was judged; alias: an alias names it from now on; rollback: an alias names it
again; retire: it is not promoted any more; load: a server is to load it; switch: an alias of a server is to name it;
canary, deploy: what the server showed of it."""
_STATES = ("candidate", "control", "retired")
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("event_id", "name", "version", "event", "alias", "arm", "previous", "verdict"), pl.String),
    **dict.fromkeys(("adapter_sha256", "base_model", "actor", "reason", "detail"), pl.String),
    "is_forced": pl.Boolean,
    "seq": pl.Int64,
}


def alias_of(name: str, alias: str = CHAMPION) -> str:
    """Return the name by which clients ask for a version that may change.

    Args:
        name: Family of the version (``Task.family``).
        alias: Of ``model_events``.

    Example:
        >>> alias_of("candidate-evaluation")
        'candidate-evaluation@champion'
    """
    return f"{name}@{alias}"


def named(events: pl.DataFrame, name: str, alias: str = CHAMPION) -> str | None:
    """Return the version that an alias names; null: none yet.

    Args:
        events: Rows of ``model_events``.
        name: Family.
        alias: Its alias.
    """
    stack = _stack(events, name, alias)
    return stack[-1] if stack else None


def before(events: pl.DataFrame, name: str, alias: str = CHAMPION) -> str | None:
    """Return the version to which a rollback goes: that before the present one which is not retired; null: none.

    A version from which somebody went back is not gone back to.

    Args:
        events: Rows of ``model_events``.
        name: Family.
        alias: Its alias.
    """
    stack = _stack(events, name, alias)
    gone = {*events.filter(event="retire")["version"], *stack[-1:]}
    earlier = [version for version in stack if version not in gone]
    return earlier[-1] if earlier else None


def _stack(events: pl.DataFrame, name: str, alias: str) -> list[str]:
    """The versions that an alias has named, without those from which somebody went back; the last one holds."""
    stack: list[str] = []
    of = events.filter(pl.col("event").is_in(["alias", "rollback"]), name=name, alias=alias).sort("seq")
    for event, version in of.select("event", "version").iter_rows():
        if event == "rollback" and version in stack:
            stack = stack[: len(stack) - stack[::-1].index(version)]
        else:
            stack.append(version)
    return stack


def states(events: pl.DataFrame) -> pl.DataFrame:
    """Return what each version is now, by family, the newest first.

    Args:
        events: Rows of ``model_events``.

    Returns:
        name, version, arm, state (the aliases that name it, such as champion; retired; control: it is none
        for promotion; else candidate), verdict (of its newest gate; null: none judged it), is_forced (it was promoted
        against the gate, once or more), base_model, adapter_sha256, run_id, created_at (of its registration).
    """
    aliases: dict[str, list[str]] = {}
    pairs = events.filter(pl.col("alias").is_not_null()).select("name", "alias").unique(maintain_order=True)
    for name, alias in pairs.iter_rows():
        if (version := named(events, name, alias)) is not None:
            aliases.setdefault(version, []).append(alias)
    rows = []
    for register in events.filter(event="register").sort("seq", descending=True).iter_rows(named=True):
        own = events.filter(version=register["version"]).sort("seq")
        gates = own.filter(event="gate")["verdict"].to_list()
        is_retired = own.filter(event="retire").height > 0
        control = "control" if "control" in (register["arm"] or "") else "candidate"
        named_by = sorted(aliases.get(register["version"], ()), key=lambda alias: (alias != CHAMPION, alias))
        state = ", ".join(named_by) or ("retired" if is_retired else control)
        shown = {k: register.get(k) for k in ("name", "version", "arm")} | {"state": state}
        shown |= {"verdict": gates[-1] if gates else None, "is_forced": bool(own["is_forced"].fill_null(False).any())}
        rows.append(shown | {k: register.get(k) for k in ("base_model", "adapter_sha256", "run_id", "created_at")})
    columns = ("name", "version", "arm", "state", "verdict")
    schema = dict.fromkeys(columns, pl.String) | {"is_forced": pl.Boolean}
    schema |= dict.fromkeys(("base_model", "adapter_sha256", "run_id"), pl.String)
    return pl.DataFrame(rows, schema=schema | {"created_at": pl.Datetime("us", "UTC")}).sort(
        "name", maintain_order=True
    )


def left(events: pl.DataFrame, version: str) -> dict[str, Any] | None:
    """Return the rollback by which somebody left a version that was not promoted again since; null: nobody did.

    Args:
        events: Rows of ``model_events``.
        version: Name of the version.
    """
    is_of = (pl.col("event") == "alias") & (pl.col("version") == version)
    is_away = (pl.col("event") == "rollback") & (pl.col("previous") == version)
    last = events.filter(is_of | is_away).sort("seq")
    return last.row(-1, named=True) if last.height and last["event"][-1] == "rollback" else None


def check_alias(alias: str) -> str:
    """Return the name of an alias, or refuse one that no server takes, or that a state has.

    Raises:
        RegistryError: It is such a name.
    """
    if not re.fullmatch(r"[^@\s]{1,200}", alias) or alias in _STATES:
        raise RegistryError(
            f"an alias must be a word without @ and spaces, other than {', '.join(_STATES)}, got {alias!r}; "
            "champion is what clients ask for."
        )
    return alias


def registered(events: pl.DataFrame, version: str) -> dict[str, Any]:
    """Return the event that registered a version.

    Raises:
        RegistryError: There is none; the closest name is told.
    """
    rows = events.filter(event="register", version=version)
    if not rows.height:
        known = events.filter(event="register")["version"]
        raise RegistryError(
            f"there is no version {version!r}; {closest(version, known) if known.len() else 'none is registered yet'}. "
            "Versions are registered by phase 4 (arislab run finetune)."
        )
    return rows.row(0, named=True)


def judged(events: pl.DataFrame, version: str, sha256: str) -> dict[str, Any] | None:
    """Return the newest gate of exactly these weights; null: none judged them."""
    rows = events.filter(event="gate", version=version, adapter_sha256=sha256).sort("seq")
    return rows.row(-1, named=True) if rows.height else None


def made(known: pl.DataFrame, run_id: str, now_us: int, **fields: Any) -> pl.DataFrame:
    """Return one further event, which comes after all that are known.

    Args:
        known: Rows of ``model_events``.
        run_id: Run that makes it: part of its name, so that a run that is repeated gives the same one.
        now_us: Microseconds since 1970.
        fields: Columns of ``model_events``; ``detail`` as an object.
    """
    start = f"{fields['event']}/{fields['version']}/{run_id}/"
    count = int(known["event_id"].str.starts_with(start).sum())
    last = known["seq"].max()
    fields["detail"] = json.dumps(fields.get("detail") or {}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    seq = max(now_us, int(str(last)) + 1) if last is not None else now_us
    given = {"is_forced": False} | fields | {"event_id": f"{start}{count}", "seq": seq}
    return pl.DataFrame([{column: given.get(column) for column in _SCHEMA}], schema=_SCHEMA)


def with_older(events: pl.DataFrame, models: pl.DataFrame) -> pl.DataFrame:
    """Return events, and before them those that the table ``models`` of earlier versions amounts to.

    Its ``retired`` only said that another one had become champion, which that one's row says.

    Args:
        events: Rows of ``model_events``.
        models: Rows of ``models``; versions that events tell of are left out.
    """
    rest = models.join(events.filter(event="register"), on="version", how="anti", maintain_order="left")
    parts: list[dict[str, Any]] = []
    for row in rest.sort("created_at", maintain_order=True).iter_rows(named=True):
        seq = int(row["created_at"].timestamp() * 1e6)
        facts = {k: row[k] for k in ("name", "version", "adapter_sha256", "base_model")}
        arm = "control" if row["alias"] == "control" else "curated"
        kinds = [("register", {"arm": arm})] if row["version"] not in {p["version"] for p in parts} else []
        if row["gate"] is not None:
            gate = json.loads(row["gate"])
            kinds.append(
                ("gate", {"verdict": gate.get("verdict"), "reason": gate.get("reason"), "detail": row["gate"]})
            )
        kinds += [("alias", {"alias": CHAMPION})] if row["alias"] == CHAMPION else []
        for event, more in kinds:
            own = {"event": event, "event_id": f"{event}/{row['version']}/{row['run_id']}/older", "seq": seq}
            own |= {"run_id": row["run_id"], "created_at": row["created_at"], "is_forced": False, "detail": "{}"}
            parts.append(facts | own | more)
    if not parts:
        return events
    schema = _SCHEMA | {"run_id": pl.String, "created_at": pl.Datetime("us", "UTC")}
    older = pl.DataFrame([{k: part.get(k) for k in schema} for part in parts], schema=schema)
    return pl.concat([older, events.select(older.columns)])
