"""Rows of lakes that older imports wrote.

It knows what they made of a text, so that the same row is known again under its true text.

Until imports kept text as text, a column of a file took one type: the id ``007`` became ``7``, ``00012`` beside
``1.50`` became ``12.0``, ``True`` became ``true``, 9007199254740993 beside 0.5 became ``9007199254740992.0``; objects
got the keys of all others, with null. What is decided for such lakes:

- A candidate whose name changes is a new row under its true name, in the group and the split of the old one: nothing
  that was trained on moves into the test split. The old row stays, because outputs and reviews name it.
- A candidate whose name stays gets its true profile. Its recorded outputs keep the messages that they answered.
- An answer that changes is a new row; the old one stays, because reviews name it.

This module reads frames and writes nothing.
"""

import json
import re
from typing import Any

import polars as pl

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def spellings(text: str) -> list[str]:
    """Return what older imports may have made of a text, other than itself.

    Example:
        >>> spellings("007"), spellings("1.50"), spellings("True"), spellings("0x7")
        (['7', '7.0'], ['1.5'], ['true'], [])
    """
    forms = []
    if text.lower() in ("true", "false"):
        forms = [text.lower()]
    elif len(text) < 40 and _NUMBER.fullmatch(text):
        whole = [str(int(text))] if re.fullmatch(r"[+-]?[0-9]+", text) else []
        forms = [*whole, *pl.Series([float(text)]).cast(pl.String).to_list(), repr(float(text))]
    return [other for other in dict.fromkeys(forms) if other != text]


def renamed(frame: pl.DataFrame, known: pl.DataFrame) -> dict[str, str]:
    """Return, by the name of a candidate, the name that an older import gave to the same row.

    Args:
        frame: candidate_id, profile of the rows to import.
        known: candidate_id, profile of the rows in the lake.
    """
    before = dict(known.select("candidate_id", "profile").iter_rows())
    names = set(frame["candidate_id"])
    names_before = {}
    for name, profile in frame.select("candidate_id", "profile").iter_rows():
        for other in spellings(name) if name not in before else ():
            if other in before and other not in names and _alike(json.loads(profile), json.loads(before[other])):
                names_before[name] = other
                break
    return names_before


def respelled(raw: pl.DataFrame, before: pl.DataFrame) -> list[tuple[str, str]]:
    """Return answers and what an older import of the same row stored for them.

    Args:
        raw: custom_id, candidate_id, llm_output of the rows to import.
        before: The same of the rows in the lake.
    """
    if not before.height:
        return []
    old: dict[str, set[str]] = {}
    for name, text in before.join(raw, on="custom_id", how="anti").select("candidate_id", "llm_output").iter_rows():
        old.setdefault(name, set()).add(text)
    answers = raw.join(before, on="custom_id", how="anti").select("candidate_id", "llm_output").drop_nulls()
    return [
        (text, other)
        for name, text in (answers.iter_rows() if old else ())
        for other in (spellings(text) if name in old else ())
        if other in old[name]
    ]


def _alike(new: Any, old: Any) -> bool:
    """Whether an older import may have made ``old`` of ``new``."""
    if isinstance(new, dict) and isinstance(old, dict):
        return all(name in old and _alike(value, old[name]) for name, value in new.items())
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(map(_alike, new, old))
    one, other = (json.dumps(value) if not isinstance(value, str) else value for value in (new, old))
    return one == other or other in spellings(one)
