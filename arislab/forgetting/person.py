"""Who is forgotten: the names of a person and of their requests, and the texts that are theirs alone.

A text of theirs that stands in what others own, too (two candidates with one profile), is not theirs alone: it stays.
Of all others the shortest beginning is kept that nobody else's text has, so that a text which a display cut is found
as well. Not found is a text that was cut at its start, or put into other words.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape as xml_escape

import polars as pl

from arislab.lake import tables

SUBJECTS = ("custom_id", "request_id", "other_id", "pair_id", "arm_custom_id", "baseline_custom_id", "id")
"""Columns, or fields, by which a row is about a request or a pair."""
_NAMED = ("candidate_id", "group_id", "duplicate_of", "id", "candidate_ids")
"""Columns, or fields, in which a name is one however short it is."""
_OWN = ("profile", "input", "llm_output", "output", "edited_output", "note", "chosen", "rejected", "left", "right")
"""Columns that hold what a candidate or an answer about them says."""
_HANDED = ("training_data_raw", "training_data_scored", "training_data_curated", "preferences")
"""Tables whose rows are as much those of another candidate with the same profile."""
_KEPT = ("training_rows", "certified_rows")
"""Tables whose rows count what others rely on: only the name in them goes."""
_SHORTEST, _HEADS = 16, (24, 48, 96, 200)
_PLAIN = re.compile(r"[A-Za-z0-9 .,:;_-]+")
_MINTED = re.compile(r"r-[0-9a-f]{40}")


@dataclass(frozen=True)
class Person:
    """One person, or several who are forgotten together."""

    receipt: str
    """Name of the receipt; it stands where their data stood."""
    names: list[str]
    """Of candidates."""
    ids: list[str] = field(default_factory=list)
    """Of requests and pairs about them."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """What is theirs alone: the beginning by which it is found, and the whole."""
    heirs: dict[str, str] = field(default_factory=dict)
    """Name to another candidate with the same profile, whose answers theirs are as well."""
    n_shared: int = 0
    """Their texts that stand in what others own, and stay there."""

    @property
    def mark(self) -> str:
        """What stands where a text of theirs stood."""
        return f"[forgotten {self.receipt}]"

    @cached_property
    def stamps(self) -> dict[str, str]:
        """Name or id to what stands in its place, so that sets keep their size."""
        return {name: f"forgotten-{self.receipt}-{n}" for n, name in enumerate([*self.names, *self.ids], start=1)}

    @cached_property
    def cores(self) -> list[str] | None:
        """What a text must have that holds something of theirs, however it is escaped; null: that cannot be told."""
        sought = [*self.names, *self.ids, *(probe for probe, _ in self.texts)]
        sought = [name[:12] if _MINTED.fullmatch(name) else name for name in sought]
        cores = {max(_PLAIN.findall(text), key=len, default="") for text in sought}
        return None if "" in cores else sorted(cores)

    @cached_property
    def wholes(self) -> set[str]:
        """Their texts, whole."""
        return {whole for _, whole in self.texts}

    @cached_property
    def _ids(self) -> set[str]:
        return set(self.ids)

    @cached_property
    def _by_probe(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for probe, whole in self.texts:
            for short, long in zip(_forms(probe), _forms(whole), strict=True):
                found.setdefault(short, []).append(long)
        return found

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        names = sorted({form for name in self.names if is_telling(name) for form in _forms(name)}, key=len)
        ids = [f"{name[:12]}[0-9a-f]*" if _MINTED.fullmatch(name) else re.escape(name) for name in self.ids]
        tokens = "|".join([*map(re.escape, reversed(names)), *ids])
        parts = [rf"(?<![\w-])(?:{tokens})(?![\w-]|[.:/@%][\w-])"] if tokens else []
        parts += map(re.escape, sorted(self._by_probe, key=len, reverse=True))
        return re.compile("|".join(parts) or r"(?!)")

    def may_hold(self, texts: pl.Series) -> pl.Series:
        """Say of each text whether it could hold something of theirs."""
        if self.cores is None:
            return texts.is_not_null()
        return texts.str.contains_any(self.cores).fill_null(value=False)

    def text(self, value: str) -> tuple[str, int]:
        """Return a text without what is theirs, and how often that stood in it."""
        parts, at, n = [], 0, 0
        for match in self._pattern.finditer(value):
            if match.start() < at or not self._is_theirs(match[0]):
                continue
            longest = (_common(value, match.start(), whole) for whole in self._by_probe.get(match[0], ()))
            end = match.start() + max([len(match[0]), *longest])
            parts += [value[at : match.start()], self.stamps.get(match[0], self.mark)]
            at, n = end, n + 1
        return "".join([*parts, value[at:]]), n

    def _is_theirs(self, found: str) -> bool:
        """Whether what was found is theirs; an id of others may begin as one of theirs does."""
        if found in self._by_probe or not re.fullmatch("r-[0-9a-f]+", found):
            return True
        return found in self.names or any(name.startswith(found) for name in self.ids)

    def leaf(self, value: str, key: str = "") -> tuple[str, int]:
        """Return a text of a field without what is theirs; it may be JSON itself."""
        if value in self.wholes:
            return self.mark, 1
        if value in self._ids or (value in self.names and (key in _NAMED or is_telling(value))):
            return self.stamps[value], 1
        if value[:1] in ("{", "["):
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):
                return self.text(value)
            new, n = self.value(parsed, key)
            return (_dumped(new, value), n) if n else (value, 0)
        return self.text(value)

    def value(self, value: Any, key: str = "") -> tuple[Any, int]:
        """Return a JSON value without what is theirs, and how much that was; list entries about them are gone."""
        if isinstance(value, str):
            return self.leaf(value, key)
        if isinstance(value, list):
            rest = [entry for entry in value if not (isinstance(entry, dict) and self.is_about(entry))]
            done = [self.value(entry, key) for entry in rest]
            return [new for new, _ in done], sum(n for _, n in done) + len(value) - len(rest)
        if isinstance(value, dict):
            fields = {name: inner for name, inner in value.items() if name not in self._ids}
            changed = {name: self.value(inner, name) for name, inner in fields.items()}
            n = sum(n for _, n in changed.values()) + len(value) - len(fields)
            return {self.leaf(name)[0]: new for name, (new, _) in changed.items()}, n
        return value, 0

    def is_about(self, row: dict[str, Any]) -> bool:
        """Say whether a row, a line of a file or an entry of a list, is about them."""
        if row.get("candidate_id") in self.names or any(_text_of(row, name) in self._ids for name in SUBJECTS):
            return True
        body = row.get("body")
        messages = row.get("messages") or (body.get("messages") if isinstance(body, dict) else None)
        said = [_text_of(row, name) for name in _OWN]
        if isinstance(messages, list) and messages and all(isinstance(one, dict) for one in messages):
            asked = [one for one in messages if one.get("role") == "user"]
            said += [_text_of(one, "content") for one in (*asked[-1:], messages[-1])]
        return not self.wholes.isdisjoint(said)

    def frame(self, rows: pl.DataFrame, table: str = "") -> tuple[pl.DataFrame, int]:
        """Return rows of a table, or of a file with its columns, without what is theirs; and how much that was."""
        texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
        heir = pl.col("candidate_id").replace(self.heirs)
        n = 0
        if table in _HANDED and self.heirs and "candidate_id" in texts:
            n += rows.filter(pl.col("candidate_id").is_in([*self.heirs])).height
            rows = rows.with_columns(heir)
        is_kept = table in _KEPT or {"model_path", "role"} <= {*texts} or {"certificate", "place"} <= {*rows.columns}
        known = [pl.col(name).is_in(self.ids) for name in SUBJECTS if name in texts]
        known += [pl.col("candidate_id").is_in(self.names)] if "candidate_id" in texts else []
        if known:
            about = rows.select(pl.any_horizontal(known).fill_null(value=False)).to_series()
            if is_kept:  # what tells a text by its digest goes with the name
                digests = [name for name in texts if name.endswith("_sha256") and name != "rows_sha256"]
                gone = pl.when(about).then(pl.lit(self.mark))
                rows = rows.with_columns(gone.otherwise(pl.col(name)).alias(name) for name in digests)
            else:
                rows, n = rows.filter(~about), n + int(about.sum())
        for name in texts:
            values = rows[name]
            where = self.may_hold(values).arg_true()
            done = [self.leaf(value, name) for value in values.gather(where)]
            if found := sum(count for _, count in done):
                n += found
                rows = rows.with_columns(values.scatter(where, [new for new, _ in done]).alias(name))
        for name in (name for name, dtype in rows.schema.items() if dtype == pl.List(pl.String)):
            inner = pl.col(name).list.eval(pl.element().is_in([*self.names, *self.ids]))
            if found := int(rows.select(inner.list.sum().sum()).item() or 0):
                n += found
                rows = rows.with_columns(pl.col(name).list.eval(pl.element().replace(self.stamps)))
        return rows, n


def gather(lake: Path, names: list[str], receipt: str) -> Person:
    """Return what a lake and its batches tell of candidates, in all versions.

    Args:
        lake: Folder of the tables.
        names: candidate_id of each.
        receipt: Name of the receipt.
    """
    ids, of_others, own, heirs = set[str](), set[str](), set[str](), _heirs(lake, names)
    for table in tables.TABLES:
        for rows in _rows(lake, table, ["candidate_id", *SUBJECTS, "custom_ids"]):
            if "candidate_id" in rows.columns:
                who = [name for name in names if not (table in _HANDED and name in heirs)]
                theirs = rows.filter(pl.col("candidate_id").is_in(who)).drop("candidate_id")
                ids.update(*(theirs[name].explode().drop_nulls() for name in theirs.columns))
                rest = rows.filter(~pl.col("candidate_id").is_in(names)).drop("candidate_id")
                of_others.update(*(rest[name].explode().drop_nulls() for name in rest.columns))
    ids = (ids | _groups(lake, names)) - of_others
    for rows in _rows(lake, "judgements", ["request_id", "custom_id", "other_id"]):
        known = pl.col("custom_id").is_in(list(ids)) | pl.col("other_id").is_in(list(ids)).fill_null(value=False)
        ids.update(rows.filter(known)["request_id"])
    for is_theirs, rows in _owned(lake, names, ids, heirs):
        if is_theirs:
            own.update(text for name in rows.columns for text in rows[name].drop_nulls())
    pieces = sorted({piece for text in own for piece in _pieces(text) if len(piece) >= _SHORTEST})
    heads = {piece: [*(piece[:n] for n in _HEADS if n < len(piece)), piece] for piece in pieces}
    sought = sorted({head for some in heads.values() for head in some})
    others = set[str]()
    for texts in _others(_owned(lake, names, ids, heirs), lake) if sought else ():
        found = texts.str.extract_many(sought, overlapping=True).explode().drop_nulls().unique()
        others.update(found)
    told = [(head, piece) for piece in pieces if (head := next((h for h in heads[piece] if h not in others), None))]
    person = Person(receipt, list(names), sorted(ids), told, heirs, len(pieces) - len(told))
    return Person(receipt, list(names), sorted(ids | _unrecorded(lake, person)), told, heirs, person.n_shared)


def learned(lake: Path, person: Person) -> tuple[list[tuple[str, str]], list[str]]:
    """Return adapters that were given rows of theirs, with the role of these, and example sets that show some."""
    roles, sets = set[tuple[str, str]](), set[str]()
    for rows in _rows(lake, "training_rows", ["model_path", "id", "role"]):
        roles.update(rows.filter(pl.col("id").is_in(person.ids)).select("model_path", "role").iter_rows())
    for rows in _rows(lake, "icl_examples", ["id", "example_ids"]):
        shows = pl.col("example_ids").list.eval(pl.element().is_in(person.ids)).list.any()
        sets.update(rows.filter(shows)["id"])
    return sorted(roles), sorted(sets)


def data_files(folder: Path) -> list[Path]:
    """Return the data files of a table, those of older versions and what no version names included."""
    return sorted(path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)


def _rows(lake: Path, table: str, columns: Iterable[str]) -> Iterator[pl.DataFrame]:
    """Columns of each data file of a table that has them; a file that cannot be read is named by the search."""
    for path in data_files(lake / table):
        try:
            have = pl.read_parquet_schema(path)
            yield pl.read_parquet(path, columns=[name for name in columns if name in have], glob=False)
        except pl.exceptions.PolarsError:
            continue


def _groups(lake: Path, names: list[str]) -> set[str]:
    """Names of groups that are theirs alone, and made of their own names."""
    none = pl.DataFrame(schema={"candidate_id": pl.String, "group_id": pl.String})
    rows = pl.concat([none, *_rows(lake, "candidates", ["candidate_id", "group_id"])])
    is_theirs = pl.col("candidate_id").is_in(names)
    theirs = rows.filter(is_theirs).join(rows.filter(~is_theirs), on="group_id", how="anti")["group_id"]
    told = [name for name in names if is_telling(name)]
    return {group for group in theirs.drop_nulls() if group not in names and any(name in group for name in told)}


def _heirs(lake: Path, names: list[str]) -> dict[str, str]:
    profiles: dict[str, str] = {}
    for rows in _rows(lake, "candidates", ["candidate_id", "profile"]):
        profiles.update(rows.iter_rows())
    others = {text: name for name, text in profiles.items() if name not in names}
    return {name: others[profiles[name]] for name in names if profiles.get(name) in others}


def _owned(lake: Path, names: list[str], ids: set[str], heirs: dict[str, str]) -> Iterator[tuple[bool, pl.DataFrame]]:
    """What each candidate owns, in texts: theirs, and that of all others."""
    for table in tables.TABLES:
        who = [name for name in names if not (table in _HANDED and name in heirs)]
        for rows in _rows(lake, table, [*_OWN, "candidate_id", *SUBJECTS]):
            keys = [name for name in SUBJECTS if name in rows.columns]
            known = [pl.col(name).is_in(list(ids)) for name in keys]
            known += [pl.col("candidate_id").is_in(who)] if "candidate_id" in rows.columns else []
            owned = [name for name in _OWN if name in rows.columns]
            if known and owned:
                is_theirs = pl.any_horizontal(known).fill_null(value=False)
                yield True, rows.filter(is_theirs).select(owned)
                yield False, rows.filter(~is_theirs).select(owned)


def _others(owned: Iterable[tuple[bool, pl.DataFrame]], lake: Path) -> Iterator[pl.Series]:
    """What others own, with what stands inside of JSON; and what tasks say, which nobody owns."""
    for is_theirs, rows in owned:
        for name in rows.columns if not is_theirs else ():
            yield pl.Series(["\n".join(_spread(text)) for text in rows[name].drop_nulls().unique()], dtype=pl.String)
    tasks = (lake.parent.parent / "papermill_runs").glob("*/task.py")
    yield pl.Series([*{path.read_text(encoding="utf-8", errors="replace") for path in tasks}], dtype=pl.String)


def _unrecorded(lake: Path, person: Person) -> set[str]:
    """Requests about them that were sent, and whose answers never came into the lake."""
    found = set[str]()
    for path in (lake.parent / "batches").rglob("requests/*.jsonl") if person.texts else ():
        lines = pl.Series(path.read_text(encoding="utf-8", errors="replace").split("\n"))
        for line in lines.filter(person.may_hold(lines)):
            row = _parsed(line)
            if isinstance(row, dict) and person.is_about(row) and isinstance(row.get("custom_id"), str):
                found.add(row["custom_id"])
    return found


def _pieces(text: str) -> set[str]:
    return {part for whole in _spread(text) for part in (whole, *whole.split("\n"))}


def _spread(text: str) -> list[str]:
    """A text, and the texts inside of it if it is JSON."""
    parsed = _parsed(text) if text[:1] in ("{", "[") else None
    return [text, *_leaves(parsed)]


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _spread(value)
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text_of(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) else None


def is_telling(name: str) -> bool:
    """Whether a name can be sought in any text: one that is short, or a number, stands there by chance."""
    return len(name) >= 6 and not name.isdigit()


def _forms(text: str) -> list[str]:
    """A text as it is, and as JSON, HTML and Python write it."""
    jsons = [json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
    jsons += [json.dumps(inner)[1:-1] for inner in jsons]  # within JSON that is a text of JSON
    return [text, *jsons, xml_escape(text, {'"': "&quot;", "'": "&#x27;"}), xml_escape(text), repr(text)[1:-1]]


def _common(text: str, start: int, whole: str) -> int:
    """How many characters of a text, from a place on, are the beginning of another."""
    if text.startswith(whole, start):
        return len(whole)
    n = min(len(text) - start, len(whole))
    return next((i for i in range(n) if text[start + i] != whole[i]), n)


def _dumped(value: Any, before: str) -> str:
    is_compact = '": ' not in before and '", ' not in before
    separators = (",", ":") if is_compact else (", ", ": ")
    return json.dumps(value, ensure_ascii=before.isascii(), separators=separators)
