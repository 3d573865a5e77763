"""Deploying: has a server the version that was judged, and do clients get it under its alias?

Success is what the server lists and answers, not what it says of an order. A canary asks frozen prompts of the
validation split, greedily, and compares three answers to each: what the version's own folder answered when it was first
asked (the reference, which the lake keeps), what the server answers under its name, and what its base answers.
"""

import json
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arislab import batch, models
from arislab.errors import ArislabError, ParameterError, RegistryError
from arislab.system import masking

ANSWER = ["custom_id", "status", "llm_output", "model_returned", "first_token_logprobs"]
"""Columns of ``training_data_raw`` that a canary reads."""


def canary(requests: dict[str, pl.DataFrame], answers: pl.DataFrame) -> pl.DataFrame:
    """Compare the answers to frozen prompts, prompt by prompt.

    Args:
        requests: reference, served and base: requests about the same candidates, in one order.
        answers: Rows of ``training_data_raw`` with the columns ``ANSWER``.

    Returns:
        One row per prompt: candidate_id, is_answered, is_equal (served is the reference, letter by letter),
        is_unlike_base (its text is another one than the base's), has_other_logprobs (the likeliest first tokens have
        other probabilities than the base's; null: the server gave none), gap (nats by which a first token's differs
        from the reference's, the most of all that both name; null as before), answered_by (the model that the server
        says answered), reference, served, base (texts).
    """
    by_id = {row["custom_id"]: row for row in answers.to_dicts()}
    rows = []
    for reference, served, base in zip(
        *(requests[name].iter_rows(named=True) for name in ("reference", "served", "base")), strict=True
    ):
        said = {
            name: by_id.get(each["custom_id"]) or dict.fromkeys(ANSWER)
            for name, each in (("reference", reference), ("served", served), ("base", base))
        }
        texts = {name: row["llm_output"] for name, row in said.items()}
        first = {name: json.loads(row["first_token_logprobs"] or "{}") for name, row in said.items()}
        shared = first["reference"].keys() & first["served"].keys()
        rows.append(
            {
                "candidate_id": served["candidate_id"],
                "is_answered": None not in (texts["reference"], texts["served"], texts["base"]),
                "is_equal": texts["served"] is not None and texts["served"] == texts["reference"],
                "is_unlike_base": texts["served"] is not None and texts["served"] != texts["base"],
                "has_other_logprobs": first["served"] != first["base"] if first["served"] and first["base"] else None,
                "gap": max((abs(first["reference"][t] - first["served"][t]) for t in shared), default=None),
                "answered_by": said["served"]["model_returned"],
                **texts,
            }
        )
    flags = dict.fromkeys(("is_answered", "is_equal", "is_unlike_base", "has_other_logprobs"), pl.Boolean)
    texts = dict.fromkeys(("answered_by", "reference", "served", "base"), pl.String)
    return pl.DataFrame(rows, schema={"candidate_id": pl.String} | flags | {"gap": pl.Float64} | texts)


def verdict(compared: pl.DataFrame, version: str, *, min_equal: float = 1.0) -> dict[str, Any]:
    """Say whether a server may serve a version, by its canary.

    Args:
        compared: From ``canary``.
        version: Name of the version.
        min_equal: Least share of answers that must be those of the reference, 0..1; below 1 for an engine that rounds
            otherwise than the one that gave the reference.

    Returns:
        verdict (passed or failed), reason (in words), n, n_equal, n_unlike_base, n_other_logprobs (null: the server
        gives no probabilities), gap (the most; null likewise), min_equal.
    """
    n = compared.height
    counts = {name: int(compared[f"is_{name}"].sum()) for name in ("answered", "equal", "unlike_base")}
    measured = compared["has_other_logprobs"].drop_nulls()
    n_other = int(measured.sum()) if measured.len() else None
    wrong = compared.filter(pl.col("answered_by").is_not_null() & (pl.col("answered_by") != version))["answered_by"]
    problems = []
    if not n or counts["answered"] < n:
        problems.append(f"{n - counts['answered']} of {n} prompts have no answer")
    if wrong.len():
        problems.append(f"{wrong.len()} answers are by {wrong[0]!r}, as the server says")
    if counts["equal"] < min_equal * n:
        problems.append(f"{counts['equal']} of {n} answers are those of the reference, {min_equal:.0%} are wanted")
    if not counts["unlike_base"]:
        problems.append("no answer differs from the base's: the adapter is not in force, or changes nothing")
    if n_other is not None and n_other < measured.len():
        problems.append(f"of {measured.len() - n_other} prompts the first token has the probabilities of the base")
    said = (
        f"{counts['equal']} of {n} answers are those of the reference, {counts['unlike_base']} differ from the base's, "
        + ("the server gives no probabilities" if n_other is None else f"{n_other} have other probabilities")
    )
    return {
        "verdict": "failed" if problems else "passed",
        "reason": "; ".join(problems) or said,
        "n": n,
        "n_equal": counts["equal"],
        "n_unlike_base": counts["unlike_base"],
        "n_other_logprobs": n_other,
        "gap": compared["gap"].max(),
        "min_equal": min_equal,
    }


def require(said: dict[str, Any], version: str, *, server: batch.Server | None = None) -> None:
    """Stop where a canary failed: clients keep what they have.

    Args:
        said: From ``verdict``.
        version: Name of the version.
        server: Lets it go again, if it is one that loads versions; null: it stays.

    Raises:
        RegistryError: It failed.
    """
    if said["verdict"] != "passed":
        if server is not None:
            server.unload_adapter(version)
        raise RegistryError(
            f"{version} is not deployed, and clients get what they got before: {said['reason']}. Look at the answers "
            "above; where another engine only rounds otherwise, -p min_equal 0.9 allows it."
        )


def asked_anew(events: pl.DataFrame, n_rows: int, endpoint: str) -> int:
    """Return a seed for a canary, so that no answer to an earlier one, or of another server, passes for one to it.

    Greedy requests do not depend on it but for their name; a run that is repeated gets the same.

    Args:
        events: Rows of ``model_events``.
        n_rows: Rows of ``training_data_raw`` now.
        endpoint: From ``endpoint``.
    """
    return zlib.crc32(f"{n_rows}/{events.filter(event='canary').height}/{endpoint}".encode()) % 2**31 + 1


def switch(
    server: batch.Server,
    alias: str,
    version: str,
    *,
    expected: str | None,
    registered: Callable[[], str | None] | None = None,
    note: Callable[[], object] | None = None,
    drain_s: float = 0.0,
) -> dict[str, Any]:
    """Let a server answer for an alias with another version, and wait until nobody asks the one before.

    Args:
        server: From ``batch.connect``.
        alias: From ``models.alias_of``.
        version: A model that the server offers.
        expected: What the alias named at the server when the deployment began; null: nothing.
        registered: Says what the registry names now; the server follows it, and so does a switch that came second.
        note: Writes down, before it is done, that the server is to switch: a rollback asks it from then on.
        drain_s: Seconds to wait, at most; what is not answered by then goes on.

    Returns:
        previous (version; null: none), seconds (of the switch), is_drained.

    Raises:
        PrerequisiteError: Somebody else switched meanwhile, or the server has no such model.
        RegistryError: The registry names another version by now; the server answers with that one, or as before.
    """
    if registered is not None and (now := registered()) != version:
        raise RegistryError(_moved(alias, now, version) + "Nothing was switched.")
    if note is not None:
        note()
    previous, began = expected, time.monotonic()
    server.switch(alias, version, expected=expected)
    if registered is not None and (now := registered()) != version:  # a rollback that the switch overtook
        if now is not None:
            server.switch(alias, now, expected=version)
        raise RegistryError(_moved(alias, now, version) + "The server answers with that one.")
    seconds, until = time.monotonic() - began, time.monotonic() + drain_s
    while (is_used := previous not in (None, version) and previous in server.in_use()) and time.monotonic() < until:
        time.sleep(0.2)
    return {"previous": previous, "seconds": seconds, "is_drained": not is_used}


def _moved(alias: str, now: str | None, version: str) -> str:
    return (
        f"{alias} names {now or 'no version'} in the registry now, and named {version} when this began: somebody "
        "promoted or went back meanwhile (`arislab models history`). "
    )


def row(name: str, version: str, *, alias: str, run_id: str, action: str, **more: Any) -> pl.DataFrame:
    """Return a row of ``deployments``.

    Args:
        name: Family.
        version: What the alias names from now on.
        alias: From ``models.alias_of``.
        run_id: Who did it; part of the row's id.
        action: deploy or rollback.
        more: endpoint, previous, seconds, smoke_test (JSON).
    """
    own = f"{action}/{version}/{more.get('endpoint')}/{run_id}"
    facts = {"id": own, "name": name, "version": version, "alias": alias, "action": action}
    return pl.DataFrame([facts | more], schema_overrides={"previous": pl.String, "smoke_test": pl.String})


def endpoint(base_url: str, base_model: str = "tiny") -> str:
    """Return how a server is found again: its URL without secrets, or the embedded one with its model.

    Args:
        base_url: As given.
        base_model: Weights of the embedded server.
    """
    if base_url == "embedded" and base_model != "tiny":
        return f"embedded:{base_model}"
    return masking.take_apart(base_url)[0]


def serving(deployments: pl.DataFrame, alias: str) -> pl.DataFrame:
    """Return the newest row of each endpoint that serves an alias.

    Args:
        deployments: Rows of ``deployments``.
        alias: From ``models.alias_of``.
    """
    rows = deployments.filter(alias=alias).sort("created_at", maintain_order=True)
    return rows.unique("endpoint", keep="last", maintain_order=True)


def may_serve(deployments: pl.DataFrame, events: pl.DataFrame, alias: str) -> pl.DataFrame:
    """Return what each endpoint may answer with under an alias.

    That is the version of its newest row, and those to which it was to switch since then: of a deployment that was
    killed before it wrote its row, nobody but the server knows whether it did.

    Args:
        deployments: Rows of ``deployments``.
        events: Rows of ``model_events``.
        alias: From ``models.alias_of``.

    Returns:
        endpoint, version; an endpoint without a row may serve nothing as well.
    """
    newest = serving(deployments, alias).select("endpoint", "version", "created_at")
    switches = _of_endpoint(events.filter(pl.format("{}@{}", "name", "alias") == alias, event="switch"))
    rows = newest.select("endpoint", since="created_at")
    since = switches.join(rows, on="endpoint", how="left", maintain_order="left").filter(
        pl.col("since").is_null() | (pl.col("created_at") >= pl.col("since"))
    )
    return pl.concat([frame.select("endpoint", "version") for frame in (newest, since)]).unique(maintain_order=True)


def previous(deployments: pl.DataFrame, endpoint: str, alias: str, version: str, *, now: str | None) -> str | None:
    """Return what an endpoint served under an alias before a version; null: nothing.

    Where the server names that version already, as after a deployment that was killed once it had switched, the newest
    other one of the rows.

    Args:
        deployments: Rows of ``deployments``.
        endpoint: From ``endpoint``.
        alias: From ``models.alias_of``.
        version: What is deployed.
        now: What the server names before the switch; null: nothing.
    """
    if now != version:
        return now
    others = deployments.filter(pl.col("version") != version, endpoint=endpoint, alias=alias)
    return others.sort("created_at", maintain_order=True)["version"].to_list()[-1] if others.height else None


def follow(lake: Any, event: dict[str, Any], *, only: Sequence[str] | None = None) -> dict[str, str]:
    """Make every server that may serve an alias follow the registry, at once: the version before is loaded still.

    Args:
        lake: The lake.
        event: From ``Registry.roll_back``: name, alias, version.
        only: Endpoints that are asked; null: all.

    Returns:
        Endpoint -> what became of it; it begins with NOT where the server serves what it served before. None of a
        server that was never switched: it serves nothing under the alias.
    """
    alias, said = models.alias_of(event["name"], event["alias"]), {}
    rows = lake["deployments"].read()
    known = serving(rows, alias)["endpoint"]
    for where in may_serve(rows, lake["model_events"].read(), alias)["endpoint"].unique(maintain_order=True):
        if only is not None and where not in only:
            continue
        try:
            with batch.connect(where, folder=lake.batches, adapters=lake.models) as server:
                if (now := server.aliases.get(alias)) is None and where not in known:
                    continue
                done = switch(server, alias, event["version"], expected=now)
        except (ArislabError, OSError) as error:
            said[where] = (
                f"NOT switched: {error} `arislab run deploy -p base_url {where}` when it is back (with its user and "
                "password, if it was given with some; they are not kept)."
            )
            continue
        before = previous(rows, where, alias, event["version"], now=now)
        facts = {"endpoint": where, "previous": before, "seconds": done["seconds"]}
        new = row(event["name"], event["version"], alias=alias, run_id=lake.run_id, action="rollback", **facts)
        lake["deployments"].append(new)
        said[where] = f"{alias} is {event['version']} after {done['seconds']:.2f} s"
    return said


def unfinished(deployments: pl.DataFrame, events: pl.DataFrame, name: str, alias: str) -> dict[str, Any] | None:
    """Return the rollback that a server may not have followed, as one that was killed leaves it; null: all followed.

    Args:
        deployments: Rows of ``deployments``.
        events: Rows of ``model_events``.
        name: Family.
        alias: Its alias.

    Returns:
        The event, and endpoints: those of the servers that may serve another version, for ``follow``.
    """
    of = events.filter(pl.col("event").is_in(["alias", "rollback"]), name=name, alias=alias).sort("seq")
    last = of.row(-1, named=True) if of.height else {"event": None}
    if last["event"] != "rollback":
        return None
    served = may_serve(deployments, events, models.alias_of(name, alias))
    stays = served.filter(pl.col("version") != last["version"])["endpoint"].unique(maintain_order=True)
    return last | {"endpoints": stays.to_list()} if stays.len() else None


def check_answer(answer: dict[str, Any], compared: pl.DataFrame, version: str) -> None:
    """Stop where an answer through the alias is not that of the version.

    Args:
        answer: Row of ``training_data_raw`` with the columns ``ANSWER``.
        compared: From ``canary``; its first row is about the same candidate.
        version: Name of the version.

    Raises:
        RegistryError: Another model answered, or another text.
    """
    if answer["model_returned"] != version or answer["llm_output"] != compared["served"][0]:
        raise RegistryError(
            f"the alias was switched, and {answer['model_returned']} answers through it ({answer['status']}), not "
            f"{version}, or another text than before; look at the server's log, and go back with `arislab rollback`."
        )


def to_let_go(
    events: pl.DataFrame, deployments: pl.DataFrame, *, endpoint: str, alias: str, keep: Sequence[str | None]
) -> list[str]:
    """Return versions that an endpoint was made to load for an alias, and need not keep any more.

    Also those of deployments that were killed before they could say what became of them.

    Args:
        events: Rows of ``model_events``.
        deployments: Rows of ``deployments``.
        endpoint: From ``endpoint``.
        alias: From ``models.alias_of``.
        keep: Versions that stay: the present one, the one before, and that to which a rollback goes.
    """
    loaded = _of_endpoint(events.filter(event="load")).filter(
        pl.col("endpoint") == endpoint, pl.format("{}@{}", "name", "alias") == alias
    )
    served = deployments.filter(endpoint=endpoint, alias=alias)
    versions = pl.concat([served["version"], loaded["version"]]).unique(maintain_order=True)
    return [version for version in versions if version not in keep]


def cut_off(events: pl.DataFrame) -> pl.DataFrame:
    """Return the deployments that had a server load a version and ended before a verdict: killed, or under way.

    Args:
        events: Rows of ``model_events``.

    Returns:
        version, endpoint, created_at; the next deployment of that alias there lets go of what it does not need.
    """
    seen = _of_endpoint(events.filter(pl.col("event").is_in(["load", "canary", "deploy"])))

    def has_ended(row: dict[str, Any]) -> bool:
        is_judged = (pl.col("event") == "canary") & (pl.col("version") == row["version"])
        same = [pl.col(column).eq_missing(row[column]) for column in ("endpoint", "name", "alias")]
        is_next = (pl.col("event") != "canary") & pl.all_horizontal(same)
        return seen.filter(pl.col("seq") > row["seq"], is_judged | is_next).height > 0

    loads = seen.filter(event="load")
    is_cut = [not has_ended(row) for row in loads.iter_rows(named=True)]
    return loads.filter(pl.Series(is_cut, dtype=pl.Boolean)).select("version", "endpoint", "created_at")


def _of_endpoint(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(endpoint=pl.col("detail").str.json_path_match("$.endpoint"))


def needed(version: str | None, name: str, alias: str) -> str:
    """Return the version that is to be deployed.

    Args:
        version: What the registry says the alias names; null: nothing.
        name: Family.
        alias: Its alias.

    Raises:
        ParameterError: Nothing was promoted.
    """
    if version is None:
        raise ParameterError(
            f"{models.alias_of(name, alias)} names no version: nothing was promoted. Run `arislab run evaluate`, whose "
            "gate promotes what beats the baseline, or `arislab promote VERSION --force --reason …`."
        )
    return version


def folder_at(server_folder: str, models_folder: Path, version: str) -> Path:
    """Return where a server finds the folder of a version.

    Args:
        server_folder: Folder of the versions as the server sees it; empty: as this machine does.
        models_folder: Folder of the versions here.
        version: Name of the version.
    """
    return (Path(server_folder) if server_folder else models_folder) / version
