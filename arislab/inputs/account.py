"""What is said of an import: counts that add up, how the file was read, and what a reader may not expect.

    3 candidates = 3 new + 0 replaced; 3 groups
    note: 2 candidates have several questions (first: p-7); who shares one is of one group …
    warning: the validation split has none of these candidates; …

Each function returns lines; none where there is nothing to say. This module decides nothing.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from arislab import questions
from arislab.errors import PrerequisiteError
from arislab.inputs.rows import Rows
from arislab.lake.tables import SPLITS


def skipped(gone: Mapping[str, str], n_rows: int, n_all: int) -> list[str]:
    """Rows about candidates who were forgotten, which do not come back.

    Raises:
        PrerequisiteError: There are no others.
    """
    if not gone:
        return []
    name, when = next(iter(sorted(gone.items())))
    said = f"{n_rows:,} of {n_all:,} rows are about {len(gone):,} forgotten candidates (first: {name!r}, {when})"
    if n_rows == n_all:
        raise PrerequisiteError(f"{said}; who was forgotten is not imported again. Nothing was imported.")
    return [f"warning: {said}: skipped"]


def renamed(names: dict[str, str]) -> list[str]:
    """Candidates whose true name is another one than in the lake (``earlier.renamed``)."""
    if not names:
        return []
    new, old = next(iter(names.items()))
    return [
        f"note: {len(names):,} candidates stand in the lake under a name that an older import changed ({old!r} for "
        f"{new!r}); they are new rows, in the old ones' group and split. The old rows stay, because recorded outputs "
        "name them: a new lake (--root) is without"
    ]


def changed(frame: pl.DataFrame, asked: pl.DataFrame) -> list[str]:
    """Candidates with outputs in the lake whose profile is another one now."""
    both = asked.join(frame, on="candidate_id", suffix="_new")
    n = both.filter(pl.col("profile") != pl.col("profile_new")).height
    if not n:
        return []
    return [
        f"note: {n:,} candidates for which outputs are recorded have another profile now; the outputs keep the "
        "messages that they answered, and 1_generate asks again where messages change"
    ]


def kept_groups(frame: pl.DataFrame, placed: pl.DataFrame, group: str | None) -> list[str]:
    """Candidates that stay in another group than the file says."""
    kept = frame.join(placed, on="candidate_id", suffix="_kept", maintain_order="left")
    kept = kept.filter(pl.col("group_id") != pl.col("group_id_kept"))
    if not kept.height:
        return []
    row = kept.row(0, named=True)
    return [
        f"warning: --group {group!r} does not count for {kept.height:,} candidates (first: {row['candidate_id']!r} "
        f"stays in {row['group_id_kept']!r}): outputs are recorded for them, and what was trained on must never move "
        "into the test split. A new lake (--root) takes the groups as given"
    ]


def moved(moved: pl.DataFrame) -> list[str]:
    """Rows of an older import that belong to another candidate now."""
    if not moved.height:
        return []
    return [
        f"note: {moved.height:,} rows of an older import are samples of another candidate now, which is the whole "
        f"conversation and not its last message; {moved['candidate_id'].n_unique():,} candidates are new, in the old "
        "ones' group and split"
    ]


def respelled(pairs: list[tuple[str, str]]) -> list[str]:
    """Answers that an older import spelled otherwise (``earlier.respelled``)."""
    if not pairs:
        return []
    new, old = pairs[0]
    return [
        f"note: {len(pairs):,} answers stand in the lake as an older import spelled them ({old!r} for {new!r}) and now "
        "as they are; the old rows stay, because reviews name them: a new lake (--root) is without"
    ]


def read(rows: Rows, types: dict[str, str], used: Sequence[str]) -> list[str]:
    """How a file was read, and which columns were kept."""
    dropped = [*(name for name in rows.columns if name not in used), *rows.unread]
    kinds = {"csv": "every value as text", "jsonl": "each line as it stands", "parquet": "values of the types there"}
    asked = [f"{name} as {kind}" for name, kind in types.items()]
    columns = ", ".join(dict.fromkeys(used)) + (f"; dropped: {', '.join(dropped)}" if dropped else "; none dropped")
    return [f"read from {rows.name}: {'; '.join([kinds[rows.kind], *rows.notes, *asked])}", f"columns: {columns}"]


def unused_split(rows: Rows, split: str | None) -> list[str]:
    """A column that looks as if it decided the split, and does not."""
    if split is not None or "split" not in (*rows.columns, *rows.unread):
        return []
    return ["warning: the file has a column 'split', which decides nothing; give --split split if it should"]


def splits(frame: pl.DataFrame) -> list[str]:
    """How many candidates are in each split, and in none."""
    counts = dict(frame.group_by("split").len().iter_rows())
    lines = ["splits: " + ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS)]
    if alone := counts.get(None):
        first = frame.filter(pl.col("split").is_null())["candidate_id"][0]
        lines[0] += f", {alone:,} none"
        lines.append(
            f"note: {alone:,} candidates are in no split, because what is asked about them stands on both sides of the "
            f"{SPLITS[-1]} split, in different groups (first: {first!r})"
        )
    return lines


def several(placed: pl.DataFrame, known: pl.DataFrame, asked: pl.DataFrame) -> list[str]:
    """What several questions under one id mean."""
    asked = asked.drop_nulls()
    # by hashes, which take less than texts: most often nobody has several
    pairs = asked.select(name=pl.col("candidate_id").hash(), question=pl.col("input").hash()).unique()
    if pairs["name"].n_unique() == pairs.height:
        return []
    n = pl.col("input").n_unique()
    several = asked.group_by("candidate_id", maintain_order=True).agg(n).filter(pl.col("input") > 1)
    several = several.join(placed, on="candidate_id", how="semi", maintain_order="left")
    if not several.height:
        return []
    largest = max(placed.group_by("group_id").len()["len"].to_list())
    lines = [
        f"note: {several.height:,} candidates have several questions (first: {short(several['candidate_id'][0])}); "
        f"who shares one is of one group (the largest has {largest:,}), and phases 1 and 3 to 5 ask the first; leave "
        "--id out, and each question is a candidate of its own"
    ]
    own = known.join(several, on="candidate_id", how="semi", maintain_order="left")
    own = own.filter([not questions.takes(json.loads(profile)) for profile in own["profile"]])
    if own.height:
        lines.append(
            f"warning: {own.height:,} of them (first: {short(own['candidate_id'][0])}) have a profile without "
            "'input', about which the task writes one question: all answers would be trained as answers to that one; "
            "leave --id out"
        )
    return lines


def exposed(exposed: pl.DataFrame) -> list[str]:
    """Test candidates of the lake that stand outside of the test split too, by name."""
    if not exposed.height:
        return []
    pairs = [f"{short(name)} as {short(other)}" for name, other in exposed.head(20).iter_rows()]
    more = f" and {exposed.height - 20:,} more" if exposed.height > 20 else ""
    return [
        f"warning: {exposed.height:,} candidates of the {SPLITS[-1]} split are asked what is asked outside of it too "
        f"({', '.join(pairs)}{more}): what is in the lake keeps its split, so phase 5 refuses when it asks these "
        "(leaks 'drop' takes them out); a new lake (--root) places all anew"
    ]


def short(text: str | None) -> str:
    """The start of a text, on one line."""
    if text is None:
        return "null"
    start = text[:160].replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return start if len(text) <= 160 else start + "…"


def ended(lines: list[str], frame: pl.DataFrame, *, dry_run: bool) -> list[str]:
    """What was said, with what is true of every import."""
    missing = " and ".join(split for split in SPLITS[1:] if split not in set(frame["split"]))
    warning = [
        f"warning: the {missing} split has none of these candidates; phases 3 to 5 need some: import more, or give "
        "--split"
    ]
    return [*lines, *(warning if missing else []), *(["dry run: nothing was written"] if dry_run else [])]
