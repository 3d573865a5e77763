"""What a prompt with examples looks like: as messages of a chat, and as a file for other programs."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from arislab import batch, chat
from arislab.errors import PrerequisiteError
from arislab.system.kinds import takes_any_frame
from arislab.task import Task, candidate_of

QUESTION = "{{question}}"


def messages(chosen: Mapping[str, Any], curated: pl.DataFrame, candidates: pl.DataFrame, task: Task) -> dict[str, Any]:
    """Return a chosen set of examples as a message list for any OpenAI-compatible client, with where it comes from.

    The messages are those that phase 5 sends: system, one turn a side for each example, and the question, for which
    ``{{question}}`` stands. A client puts its question there, worded as the examples' are, and sends the list with
    ``model`` and ``parameters``.

    Args:
        chosen: A row of ``icl_examples``.
        curated: Rows of ``training_data_curated`` at the version that ``chosen`` names: id, candidate_id, input,
            output.
        candidates: Rows of ``candidates`` behind the examples.
        task: The task file that asked.

    Raises:
        PrerequisiteError: An example or its candidate is gone, or the task's prompt is more than a fixed system message
            and one question.
    """
    ids = list(chosen["example_ids"])
    rows = {row["id"]: row for row in curated.filter(pl.col("id").is_in(ids)).to_dicts()}
    if gone := [name for name in ids if name not in rows]:
        raise PrerequisiteError(
            f"example {gone[0]!r} of {chosen['id']} is not in {chosen['data_version']} of this lake; run `arislab run "
            "icl` again."
        )
    write = with_examples(task.to_messages, turns(curated, ids))
    people = candidates.filter(pl.col("candidate_id").is_in([row["candidate_id"] for row in rows.values()]))
    if not people.height:
        raise PrerequisiteError(f"the candidates behind {chosen['id']} are not in this lake; import them again.")
    written = [write(candidate_of(row)) for row in people.sort("candidate_id").to_dicts()]
    heads = [one[:-1] for one in written]
    n_turns = sum(m["role"] != "system" for m in heads[0])
    if any(head != heads[0] for head in heads) or n_turns != 2 * len(ids) or written[0][-1]["role"] != "user":
        raise PrerequisiteError(
            f"to_messages of {task.path.name} writes more than one fixed system message and one question, so no fixed "
            "list can stand for it; call to_messages of the task file in your client."
        )
    shown = [*heads[0], {"role": "user", "content": QUESTION}]
    number = {
        "low": chosen["ci_low"],
        "high": chosen["ci_high"],
        "n": chosen["n_validation"],
        "n_holdout_uses": chosen["n_holdout_uses"],
    }
    parameters = json.loads(chosen["params"]) if chosen["params"] else {}
    shown = chat.in_role(shown, parameters.pop("system_role", ""))  # a client sends the list as it is
    seed = parameters.pop("seed", None)  # of which phase 5 makes one for each request
    facts = ("id", "search_id", "run_id", "task", "use_case", "use_case_column", "scorer_version", "data_version")
    return {
        "messages": shown,
        "question": f"{QUESTION} stands for the question, worded as in the examples (to_messages of {task.path.name})",
        "model": chosen["model"],
        "parameters": parameters,
        "provenance": {
            **{name: chosen[name] for name in facts},
            "k": chosen["k"],
            "example_ids": ids,
            "validation_score": {"mean": chosen["validation_score"], **number},
            "verdict": chosen["verdict"],
            "approve_policy": chosen["approve_policy"],
            "seed": seed,
            "task_now": task.version,
            "sha256": hashlib.sha256(batch.canonical(shown).encode()).hexdigest(),
        },
    }


Messages = list[dict[str, str]]
Write = Callable[[dict[str, Any]], Messages]
"""A candidate (profile parsed) to the messages about it."""


@takes_any_frame
def texts(examples: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """Return what was asked and what was answered, by the id of the example: the turns that a prompt shows.

    Args:
        examples: Rows of ``training_data_curated``: id, input, output.
    """
    return {name: (asked, answered) for name, asked, answered in examples.select("id", "input", "output").iter_rows()}


@takes_any_frame
def turns(examples: pl.DataFrame, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return the turns of a set, in its order, for ``with_examples``.

    Args:
        examples: As in ``texts``; each of ``ids`` is among them.
        ids: Of the set.

    Raises:
        PrerequisiteError: One of them is not there, as its candidate was forgotten.
    """
    known = texts(examples)
    if gone := [name for name in ids if name not in known]:
        raise PrerequisiteError(
            f"example {gone[0]!r} is not there any more (withdrawn rows keep their texts, a forgotten candidate does "
            "not): this set cannot be shown again; `arislab run icl` chooses anew."
        )
    return [known[name] for name in ids]


def with_examples(to_messages: Write, examples: Sequence[tuple[str, str]]) -> Write:
    """Return a ``to_messages`` that shows the examples, as earlier turns, between system message and question.

    The examples come first, so that requests with the same set share their prefix at the server.

    Args:
        to_messages: Of the task.
        examples: (input, output) in prompt order.
    """
    turns = [
        m
        for asked, answered in examples
        for m in ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    ]

    def write(candidate: dict[str, Any]) -> Messages:
        messages = to_messages(candidate)
        system = [m for m in messages if m["role"] in ("system", "developer")]
        return [*system, *turns, *messages[len(system) :]]

    return write
