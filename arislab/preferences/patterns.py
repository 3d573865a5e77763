"""Which edits repeat: what people take out, put in or change again and again is a rule that nobody wrote yet.

A text is compared sentence by sentence, and word by word within a sentence that changed; a JSON object field by field.
What is said counts, not how it is spelt: two changes are one pattern if their normal forms are the same.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl

from arislab.normal import normalise
from arislab.system import json_text
from arislab.system.kinds import takes_any_frame

_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("change", "where", "text"), pl.String),
    **dict.fromkeys(("n", "n_edits"), pl.Int64),
    "share": pl.Float64,
    "custom_ids": pl.List(pl.String),
}
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_MOST_WORDS = 2_000
"""Words of a changed passage up to which it is compared word by word; a longer one was written anew."""
_Change = tuple[str, str, str]


@takes_any_frame
def edit_patterns(judged: pl.DataFrame, *, least: int = 2) -> pl.DataFrame:
    """Return the changes that several edits share, the most frequent first: candidates for new rules.

    Args:
        judged: From ``curate.verdicts.judged``: custom_id, holds, output, original_output (null: not edited).
        least: Fewest edits of a pattern.

    Returns:
        change (deleted, inserted, replaced), where (start, within, end of the text, or the field of a JSON object),
        text (normal form of what was changed; of a replacement ``before → after``; empty: the field itself),
        n (edits with it), n_edits (all edits), share (n / n_edits), custom_ids (of up to five of them).
    """
    edits = judged.filter("holds", pl.col("original_output").is_not_null()).sort("custom_id")
    names: dict[_Change, list[str]] = {}
    for name, before, after in edits.select("custom_id", "original_output", "output").iter_rows():
        for change in set(_changes(before, after)):
            names.setdefault(change, []).append(name)
    n = edits.height
    rows = [(*change, len(of), n, len(of) / n, of[:5]) for change, of in names.items() if len(of) >= least]
    found = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    return found.sort("n", "change", "where", "text", descending=[True, False, False, False])  # one row per pattern


def in_words(patterns: pl.DataFrame, *, n_most: int = 5) -> str:
    """Return the most frequent patterns, a line each.

    Args:
        patterns: From ``edit_patterns``.
        n_most: Lines, at most.
    """
    lines = [
        f"{row['n']:,} of {row['n_edits']:,} edits {_VERBS[row['change']]} {_what(row)}"
        for row in patterns.head(n_most).iter_rows(named=True)
    ]
    return "\n".join(
        ["edits that repeat may be rules that nobody wrote yet:", *lines] if lines else ["no edit repeats"]
    )


_VERBS = {"deleted": "take out", "inserted": "put in", "replaced": "change"}


def _what(row: dict[str, Any]) -> str:
    place = f"at the {row['where']}" if row["where"] in _PLACES else f"in {row['where']}"
    if not row["text"]:
        return str(row["where"])
    return f"{row['text']!r} {place}" if row["where"] != "within" else repr(row["text"])


_PLACES = ("start", "end")


def _changes(before: str, after: str) -> Iterator[_Change]:
    one, other = _object(before), _object(after)
    if one is None or other is None:
        yield from _in_text(before, after)
        return
    fields, others = _fields(one), _fields(other)
    for field in sorted({*fields, *others}):
        left, came = Counter(fields.get(field, ())), Counter(others.get(field, ()))
        gone, new = list((left - came).elements()), list((came - left).elements())
        if gone and new:
            yield "replaced", field, ""
            if len(gone) == len(new) == 1:
                yield from ((change, field, text) for change, _, text in _in_text(_spelt(gone[0]), _spelt(new[0])))
        elif gone or new:
            yield ("deleted" if gone else "inserted"), field, ""


def _object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json_text.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _spelt(value: str) -> str:
    """A value for comparing its words: a text without its quotes."""
    return str(json.loads(value)) if value.startswith('"') else value


def _fields(value: Any, path: str = "") -> dict[str, list[str]]:
    """The values of a JSON object, as JSON, by the path to them; the places in a list are one path, ``skills[]``."""
    if isinstance(value, dict):
        inner = [_fields(one, f"{path}.{name}" if path else name) for name, one in value.items()]
    elif isinstance(value, list):
        inner = [_fields(one, f"{path}[]") for one in value]
    else:
        return {path: [json.dumps(value, ensure_ascii=False)]}
    merged: dict[str, list[str]] = {}
    for part in inner:
        for name, values in part.items():
            merged.setdefault(name, []).extend(values)
    return merged


def _in_text(before: str, after: str) -> Iterator[_Change]:
    """The changes of a text: whole sentences, and words of a sentence that is still there."""
    old, new = _sentences(before), _sentences(after)
    for change, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if change == "replace":
            yield from _in_words(" ".join(old[i:j]).split(), " ".join(new[k:m]).split())
        elif change == "delete":
            yield from (("deleted", _place(at, old), old[at]) for at in range(i, j))
        elif change == "insert":
            yield from (("inserted", _place(at, new), new[at]) for at in range(k, m))


def _in_words(old: list[str], new: list[str]) -> Iterator[_Change]:
    if max(len(old), len(new)) > _MOST_WORDS:
        return
    for change, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, came = " ".join(old[i:j]), " ".join(new[k:m])
        if change == "replace":
            yield "replaced", "within", f"{gone} → {came}"
        elif change != "equal":
            yield ("deleted" if gone else "inserted"), "within", gone or came


def _sentences(text: str) -> list[str]:
    """The sentences of a text in normal form, without those that say nothing."""
    return [form for form in map(normalise, _SENTENCE.split(text)) if form]


def _place(at: int, sentences: list[str]) -> str:
    return "start" if at == 0 else "end" if at == len(sentences) - 1 else "within"
