"""Texts that say the same: one normal form, and from it near-duplicates, groups for the splits, and leaks.

What is invisible does not count: case, white space, Unicode form (NFD, fullwidth, ligatures), zero-width and other
format characters, soft hyphens, HTML entities, underscores, the marks of markdown, ordinary punctuation. What is said
counts in full:
words, numbers with all their digits, operators, currency, emoji::

    "**Solve**  x²&nbsp;− 5x"  ->  "solve x ^ 2 - 5x"

Two texts resemble each other when they have the same numbers and signs, each as often, and the Jaccard index of their
sets of 3-word shingles reaches the threshold. So 7 * 3 never resembles -7 * 3, nor $5 €5, nor B12 B6, however long the
text around it; a text with another date or telephone number is another text. Scripts written without spaces are
compared by character.

What most questions say (a rubric, a form) says nothing about what is asked: where questions are compared, shingles that
stand in more than half of at least `_FEW` distinct texts do not count.

A hyphen, a dot, an asterisk, an apostrophe or an exclamation mark counts where it can be read as a sign (-sin(x), α -
β, .NET, y', n!), a MINUS SIGN (U+2212) everywhere; between words ("well-known", "salt - a mineral"), as bullet, as
emphasis and as quote it does not.

What this module does not know: meaning. A paraphrase or a translation is no near-duplicate here, a homoglyph is another
letter, and quotes, most brackets and question marks are punctuation.

Up to `_EXACT_ROWS` rows every pair is compared; above, MinHash with locality-sensitive hashing proposes pairs (it
misses about 1 % of the pairs that sit exactly at the threshold, far fewer above it) and every proposed pair is
verified, so that no row is called a duplicate by estimate. `leaks` proposes by prefix filter and misses no pair.
"""

import html
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from arislab.errors import ParameterError
from arislab.system.text import FILLERS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

# ---- the normal form -------------------------------------------------------------------------------------------------

_SIGN, _PAD = "\x01", "\x02"  # around a sign that is not ASCII, and around a character of a script without spaces
_MINUS = "\x03"  # before a dash that is a minus, wherever it stands
_SMART = {"’": "'", "‘": "'", "“": '"', "”": '"', "…": " ", "—": " ", "–": "-", "\u00a0": " "}
_AS_ASCII = dict.fromkeys("\u2010\u2011\u2012\u2013\ufe63\uff0d", "-") | {
    "\u2212": f"{_MINUS}-",
    "\u02d7": f"{_MINUS}-",
    "×": "*",
    "⋅": "*",
    "∗": "*",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "٪": "%",
    "٫": ".",
    "٬": ",",
    "ʼ": "'",
}
_HIDDEN = f"{FILLERS}\u0640"  # and the stretch of Arabic; a blank of Braille is a sign here, and counts
_LOUD = "′″‴‰‱⌊⌋⌈⌉⟨⟩‖†‡§"  # punctuation by category, signs by meaning
_MUTE = "©®"
_UNSPACED = (  # Thai, Lao, Myanmar, Khmer, Hiragana to Bopomofo, kana and Han, in blocks of Unicode
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)

_PLAIN_QUOTES = str.maketrans(_SMART)
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]*);", re.IGNORECASE)
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺-⁾ⁿⁱ]+")
_FRACTION = re.compile(r"(?<=[\w)\]])[¼-¾⅐-⅟↉]")
_SYMBOL = f"{_SIGN}[∞√∑∏∫∂∇]"  # no emoji: these stand beside bullets and emphasis
_LAYOUT = re.compile(  # what stands at the start of a line: quotes, bullets, headings; lines drawn with characters
    rf"\n[ \t]*(?:(?:\#{{1,6}}[ \t]+|[-*>•‣■-◿][ \t]+(?!{_SYMBOL})(?=[^\d \t]))+|(?:[-*_=~\#|:+.][ \t]*){{3,}}(?=\n|\Z))"
)
_TABLE_ROW = re.compile(r"\n[ \t]*\|.*\|[ \t]*(?=\n|\Z)")
_BEYOND_ASCII = re.compile("[\x80-\U0010ffff]+")
_L = r"[^\W\d_]"  # a letter of any script
_TIMES = re.compile(rf"(?:(?<=[\d)\]])|(?<=\b{_L}))( ?)·( ?)(?=(?:{_MINUS}?-)?(?:[\d(]|{_L}\b))")
_W = "a-z0-9\x80-\U0010ffff"
_NUMBER = rf"[{_W}]+(?:(?<=\d)[.,:'](?=\d)[{_W}]+)*"  # a word too; a number with its point, comma or colon
_FUNCTION = r"(?:(?:arc|a)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|sqrt|abs|max|min|lim|det|gcd|pi|inf|infinity)\b"
_ONE = rf"(?:δ?{_L}(?!'?{_L}))"  # a name of one letter: x, x2, θ, Δx
_QUOTE = "*\"'`~_"  # quotes and emphasis
_TERM = rf"(?:[\d(.{_SIGN}]|{_ONE}|[{_W}]+\(|{_FUNCTION})"  # what can be subtracted
_AFTER_TERM = rf"(?:(?<=[\d)\]%{_SIGN}])|(?<=\b{_L})|(?<=\b{_L}')|(?<=\d{_L})|(?<=\d{_L}{_L})|(?<=\bδ{_L})|(?<=\bpi)|(?<=\b(?:utc|gmt)))"
_OPENING = (  # a dash after it is no hyphen
    rf"(?:(?<![{_W})\]{_QUOTE}-])|(?<=[\s(][{_QUOTE}])|(?<=\A[{_QUOTE}])|(?<=[\s(]\*\*)|(?<=\A\*\*)"
    rf"|(?<=[\d)]\*)|(?<=\b{_L}\*)|(?<=[\d)]\*\*)|(?<=\b{_L}\*\*))"
)
_TOKEN = re.compile(
    rf"""{_NUMBER} | (?=[{_SIGN}+=<>%$&@^|/\\\#.~*\-!':;()])(?:  # the guard spares most characters all that follows
      {_SIGN}.{_SIGN} | <-+> | [+=<>%$&@^|/\#] | (?<!~)~(?!~) | (?<=\S[ ])\\(?=[ ])
    | (?=\.)(?:(?<![{_W}.])\.(?=\d){_NUMBER} | (?:(?<![{_W}.)\]!?{_QUOTE}{_SIGN}{_PAD}])|(?<=[\s(][{_QUOTE}])|(?<=\A[{_QUOTE}]))\.{_NUMBER})  # .5, .NET
    | (?=\*)(?:                                                                             # times, power; not emphasis
        (?<=[{_W})\]])\*\*?(?=[{_W}(\[]|\.\d|{_MINUS}?-[\d(]|{_SYMBOL}) | (?<=[^\s*][ ])\*\*?(?=[ ][^\s*])
      | (?:(?<=[\d)])|(?<=\b{_L}))\*\*?(?={_MINUS}?-[{_W}{_SIGN}]) | (?:(?<=∞{_SIGN})|(?<=\d!))\*\*?(?=[{_W}({_SIGN}])
      | (?:(?<=\d)|(?<=\b{_L}))(?<!\*.)\*(?=[ ]\d) | (?:(?<=\d[ ])|(?<=\b{_L}[ ]))\*(?=\d)(?!\d+\*))
    | (?=-)(?:                                                                              # minus; not a hyphen, a dash, a bullet
        (?<={_MINUS})- | (?<!-)-+> | (?<=<)-+                                                       # always
      | {_AFTER_TERM}-{{1,2}}(?={_TERM}) | (?<=\b{_L}{_L})-(?=\d)                             # 5-x, 2-sin(x)
      | (?:{_AFTER_TERM}|(?<=\b{_L}{_L}))-+(?=[\s)\],.;:!?"'*]|\Z)                            # O-, Cl-
      | (?<![{_W})\]-])-+(?=[^\w\s{_SIGN}{_PAD}-]{{0,3}}\d|{_ONE}|\() | {_OPENING}-+(?=[^\w\s{_SIGN}{_PAD}-]{{0,3}}[\w({_SIGN}{_PAD}])  # -7, -$5, -x
      | (?:(?<=[\d)\]%!{_SIGN}][ ])|(?<=[ ][=<>*/+^][ ]))-{{1,2}}(?=[ ]{_TERM}) | (?<=\b{_L}[ ])-{{1,2}}(?=[ ]{_TERM})
      | (?:(?<=\d[ ])|(?<=\d[{_QUOTE}][ ])|(?<=\d\*\*[ ])|(?<=[ ][=<>*/+^][ ])|(?<=\b[b-hj-zα-ω][ ]))-(?=[ ][\w{_PAD}])
      | (?<=\S[ ])-{{1,2}}(?=[ ](?:\.?\d|[b-hj-zα-ωħ](?!'?{_L})|{_FUNCTION}|{_SIGN}|{_PAD}[〇一二三四五六七八九十百千万]))  # not "word - word"
      | \A-(?=[ ](?:\d|{_SYMBOL}))(?=[^\n]*\Z))
    | (?=!)(?:!(?==) | (?<=\d)!+ | (?<=\b{_L})!+(?![{_W}!]) | (?:(?<=\d\))|(?<=\b{_L}\)))!+ | (?<![{_W}])!(?=[{_W}(]))  # !=, 5!, n!, !x; not "Oh!"
    | (?=')(?:(?<=\b{_L})'+(?=\() | (?<=\b{_L})(?<!'{_L})'+(?![{_W}']) | (?<=[)\]])'+(?![{_W}']))  # f'(x), y'; not 'x'
    | (?<![{_W}])[:;]['-]?[()]+                                                             # :-)
    | (?=[()])(?:(?:(?<=[{_W})][*/^+-])|(?<=[{_W})][ ][*/^+-][ ])|(?<={_MINUS}-)|(?<={_MINUS}-[ ]))\( | \)(?=[*/^+][{_W}(]) | \)(?=[ ][*/^+][ ][{_W}(]))  # 2 * (3 + 4)
    )""",
    re.VERBOSE,
)
# texts of words and plain punctuation, of which there are many, need none of this
_SPECIAL = (
    r"[^\sa-z0-9.,;:?!\"'()-]|[0-9][.,:'][0-9]|\.[0-9]|(?:^|[^a-z0-9.])\.[a-z]|[0-9)]!|\b[a-z]!|![^\s\"')!.]|[:;]['-]?[()]|'\(|\b[a-z]'(?:$|[^a-z])|[)]'"
    r"|(?:^|[^a-z]|\b[a-z])-|-(?:$|[^a-z]|[a-z]\b)"
)


class _Forms(dict[int, str | None]):
    """Character to what stands for it, for ``str.translate``; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        self[code] = form = _form(chr(code))
        return form


_FORMS = _Forms()


def _form(char: str) -> str | None:
    code, category = ord(char), unicodedata.category(char)
    if category[0] == "Z" or category == "Cc":
        return "\n" if char in "\x85\u2028\u2029" else " "
    if char == "·":  # times, or a dot
        return char
    if char in _AS_ASCII:
        return _AS_ASCII[char]
    if category in ("Cf", "Me") or char in _HIDDEN or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
        return None
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if char in _LOUD or 0x1F3FB <= code <= 0x1F3FF:  # the tones of emoji
        return f"{_SIGN}{char}{_SIGN}"
    if category[0] == "P" or category == "Sk" or char in _MUTE or 0x2500 <= code <= 0x257F:  # lines of boxes
        return " "
    if category[0] == "S":
        return f"{_SIGN}{char}{_SIGN}"
    unspaced = any(first <= code <= last for first, last in _UNSPACED)
    return f"{_PAD}{char}{_PAD}" if unspaced else char


def normalise(text: str) -> str:
    """Return what a text says: its words, numbers and signs, with one space between them.

    A text of punctuation alone is returned as it is, but for its white space.

    Example:
        >>> normalise("**Solve**  x²&nbsp;− 5x = 1.50 €!")
        'solve x ^ 2 - 5x = 1.50 €'
    """
    return _canonical(text.translate(_PLAIN_QUOTES)).replace(_SIGN, "")


def _canonical(text: str) -> str:
    """Return the normal form of a text without `_SMART` punctuation; signs beyond ASCII stand between marks."""
    text = text.replace(_SIGN, " ").replace(_PAD, " ").replace(_MINUS, " ")
    text = text.lower() if text.isascii() and "&" not in text else _shown(text)
    text = "\n" + text.replace("\t", " ").replace("\r", "\n")
    if "|" in text:
        text = _TABLE_ROW.sub(lambda row: row[0].replace("|", " ") if row[0].count("|") > 2 else row[0], text)
    text = _LAYOUT.sub("\n", text)
    while "  " in text:
        text = text.replace("  ", " ")
    if "·" in text:
        text = _TIMES.sub(r"\1*\2", text)
    return " ".join(_TOKEN.findall(text.strip())) or " ".join(text.split())


def _shown(text: str) -> str:
    """Return a text as the eye sees it, in lower case: one form of each character, nothing invisible."""
    text = _RAISED.sub(lambda raised: "^" + raised[0], _FRACTION.sub(r" \g<0>", text))
    while True:
        text = unicodedata.normalize("NFKC", text.replace("™", "").replace("℠", ""))
        plain = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
        if plain == text:
            text = unicodedata.normalize("NFKC", text.casefold())
            return _BEYOND_ASCII.sub(lambda run: run[0].translate(_FORMS), text)
        text = plain


# ---- what is asked of it ---------------------------------------------------------------------------------------------


def stars(texts: pl.DataFrame, *, threshold: float = 0.8, questions: Sequence[str] = ()) -> tuple[Ints, Floats]:
    """Return for each row, best first, the row it is a near-duplicate of (its own number if of none), and how similar they are.

    Going down the rows, a row stays unless it resembles one that stayed, in all columns: a star, not a chain.

    Args:
        texts: String columns without nulls; the order of the rows says which of two near-duplicates stays.
        threshold: Jaccard index of the sets of 3-word shingles, in (0, 1]; shorter texts are compared as a whole.
        questions: The columns in which what most texts say does not count.

    Source:
        Broder 1997 (shingles, MinHash); Indyk and Motwani 1998 (banding); star clusters as in Aslam et al. 2004.
    """
    _check_threshold(threshold)
    first = _first_of_equals(texts)
    unique = np.flatnonzero(first == np.arange(len(first)))
    columns = _columns(texts[unique], questions=questions)
    star, similarity = _stars(columns, threshold)
    place = np.searchsorted(unique, first)  # an exact copy goes where the first of its kind goes
    return unique[star[place]], similarity[place]


def groups(
    frame: pl.DataFrame,
    *,
    on: str = "text",
    id: str = "candidate_id",
    threshold: float = 0.8,
    everybody: pl.Series | None = None,
) -> pl.DataFrame:
    """Return one row per row of `frame`: `id` and `group_id`, equal for rows that near-duplicates, or one `id`, connect.

    A chain counts (a like b, b like c: one group), because splits must not put near-duplicates on two sides.
    `group_id` is the smallest `id` of the group. A null text resembles nothing. What most texts say does not count.

    Args:
        frame: Columns `id` (String; several rows of one are several texts of it) and `on` (String, what is asked).
        on: The column to compare.
        id: The column that names a row.
        threshold: As in ``stars``.
        everybody: Those of the texts by which it is judged what most of them say; default: all.

    Example:
        >>> rows = pl.DataFrame({"candidate_id": ["a", "b", "c"], "text": ["one", "two", "One!"]})
        >>> groups(rows)["group_id"].to_list()
        ['a', 'b', 'a']
    """
    _check_threshold(threshold)
    order = frame[id].arg_sort().to_numpy().astype(np.int64)
    root = _components(frame[on].gather(order), frame[id].gather(order), threshold, everybody)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = order[root]
    return frame.select(pl.col(id), frame[id].gather(group).alias("group_id"))


def split(frame: pl.DataFrame, *, split_of: Callable[[str], str], hidden: str, threshold: float = 0.8) -> pl.DataFrame:
    """Return candidate_id, group_id and split (null.

    In none), one row per candidate, so that ``leaks`` finds nothing later.

    A candidate with a group of its own keeps it; one without joins the group of its near-duplicates, of whichever of
    its texts. Where these are of several groups, the groups are not merged: a candidate of the hidden split of which a
    text also stands outside of it is in no split, and so is a new candidate of which a known one of the hidden split
    has a text.

    Args:
        frame: One row per candidate and text: candidate_id, text (what is asked; null resembles nothing), group_id
            (String, null: none of its own; of a known candidate the one that it has) and, where some are known already,
            split (their split; null: a new candidate). whole, if present: false marks a text that is not asked but may
            be trained on, such as the last question of a conversation; two of these do not resemble each other. A
            candidate has one row at least where it is true.
        split_of: Group to split.
        hidden: The split that nothing may be seen of before it is evaluated on.
        threshold: As in ``stars``.

    Example:
        >>> rows = pl.DataFrame(
        ...     {"candidate_id": ["a", "b", "c"], "text": ["one", "one!", "two"], "group_id": ["x", "y", None]}
        ... )
        >>> split(rows, split_of=lambda group: "b" if group == "x" else "a", hidden="b").rows()
        [('a', 'x', None), ('b', 'y', 'a'), ('c', 'c', 'a')]
    """
    given = {"split": pl.lit(None, dtype=pl.String), "whole": pl.lit(value=True)}
    rows = frame.with_columns(**{name: value for name, value in given.items() if name not in frame.columns})
    everybody = rows.filter("whole")["text"]
    rows = _without_parts(rows, everybody, threshold)
    alike = groups(rows, threshold=threshold, everybody=everybody)["group_id"].alias("_alike")
    own = pl.col("group_id")
    rows = rows.with_columns(alike, _known="split", id="candidate_id")
    n_own = own.drop_nulls().n_unique().over("_alike")
    joined = pl.when(n_own == 1).then(own.drop_nulls().first().over("_alike")).otherwise("_alike")
    rows = rows.with_columns(group_id=pl.coalesce(own, joined))
    splits = {group: split_of(group) for group in rows["group_id"].unique()}
    splits |= dict(rows.filter(pl.col("split").is_not_null()).select("group_id", "split").iter_rows())
    rows = rows.with_columns(
        split=pl.coalesce("split", pl.col("group_id").replace_strict(splits, return_dtype=pl.String))
    )
    is_hidden = pl.col("split") == hidden
    # what is known stays where it is, so that later imports do not change a test set: who comes later gives way
    for test, used in (
        (pl.col("_known").is_null() & ~is_hidden, is_hidden & (pl.col("_known") == hidden) & pl.col("whole")),
        (is_hidden & pl.col("whole"), ~is_hidden),
    ):
        found = leaks(rows.filter(test), rows.filter(used), everybody=everybody, threshold=threshold)
        leaves = pl.col("candidate_id").is_in(found["candidate_id"].to_list())
        rows = rows.with_columns(split=pl.when(~leaves).then("split"))
    return rows.unique("candidate_id", keep="first", maintain_order=True).select("candidate_id", "group_id", "split")


def _without_parts(rows: pl.DataFrame, everybody: pl.Series, threshold: float) -> pl.DataFrame:
    """Return the rows without texts that are not asked and that nobody is asked either."""
    is_part = ~rows["whole"]
    if not is_part.any():
        return rows
    numbered = rows.with_row_index("_row").with_columns(id=pl.col("_row").cast(pl.String)).drop_nulls("text")
    wholes, parts = numbered.filter("whole"), numbered.filter(~pl.col("whole"))
    found = _alike(parts.select("text", candidate_id="id"), wholes.select("id", "text"), threshold, everybody)
    return rows.filter(~is_part | pl.int_range(pl.len()).cast(pl.String).is_in(found["candidate_id"].to_list()))


def leaks(
    test: pl.DataFrame, used: pl.DataFrame, *, threshold: float = 0.8, everybody: pl.Series | None = None
) -> pl.DataFrame:
    """Return the test rows that also stand in what was trained or searched on.

    Args:
        test: candidate_id, group_id, text.
        used: id, candidate_id, group_id, text.
        threshold: As in ``stars``.
        everybody: Texts of all candidates, by which it is judged what most questions say; default: `test` and `used`.
            With the same texts as at import nothing is found that ``split`` let through.

    Returns:
        One row per leaking test candidate: candidate_id, id (of the used row), kind (candidate, group, exact, near),
        similarity.
    """
    _check_threshold(threshold)
    rows = [_shared(test, used, "candidate_id", "candidate"), _shared(test, used, "group_id", "group")]
    open_ = test.filter(pl.col("text").is_not_null()).join(pl.concat(rows), on="candidate_id", how="anti")
    rows.append(
        _alike(open_.select("candidate_id", "text"), used.drop_nulls("text").select("id", "text"), threshold, everybody)
    )
    return pl.concat(rows).unique("candidate_id", keep="first", maintain_order=True).sort("candidate_id")


def _shared(test: pl.DataFrame, used: pl.DataFrame, column: str, kind: str) -> pl.DataFrame:
    """Return the test rows whose value in a column stands in `used` too."""
    holders = used.drop_nulls(column).unique(column, keep="first", maintain_order=True).select("id", _value=column)
    found = test.select("candidate_id", _value=column).join(holders, on="_value", how="inner")
    return found.select("candidate_id", "id", kind=pl.lit(kind), similarity=1.0)


def _alike(test: pl.DataFrame, used: pl.DataFrame, threshold: float, everybody: pl.Series | None) -> pl.DataFrame:
    """Return the test rows whose text is that of a used row, or near it."""
    asked = pl.concat([test["text"], used["text"]]) if everybody is None else everybody.drop_nulls()
    texts = pl.concat([test["text"], used["text"], asked]).unique(maintain_order=True)
    shingles, said, whole = _shingles(texts, salt=0)
    first = _first_of(whole)
    forms = pl.DataFrame({"text": texts, "_form": first})  # texts of one normal form have one number
    shingles = _with_said(
        _without(shingles, _common(_rows(shingles, np.unique(first[texts.is_in(asked).to_numpy()])))), said
    )
    test, used = (part.join(forms, on="text", maintain_order="left") for part in (test, used))
    exact = _shared(test, used, "_form", "exact")
    rest = test.join(exact, on="candidate_id", how="anti", maintain_order="left")
    left, right, score = _nearest(
        shingles, rest["_form"].unique().to_numpy(), used["_form"].unique().to_numpy(), threshold
    )
    pairs = pl.DataFrame({"_form": left, "_used": right, "similarity": score})
    holders = used.unique("_form", keep="first", maintain_order=True).select("id", _used="_form")
    near = rest.join(pairs, on="_form", maintain_order="left").join(holders, on="_used", maintain_order="left")
    return pl.concat([exact, near.select("candidate_id", "id", pl.lit("near").alias("kind"), "similarity")])


def asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a model is asked, as one text.

    All that the messages say but for the system's part, which all questions share.

    Args:
        messages: A chat; content is text or a list of parts, of which the texts count.

    Example:
        >>> asked([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a fjord?"}])
        'What is a fjord?'
    """
    said = []
    for message in messages:
        content = message.get("content")
        if message.get("role") not in ("system", "developer"):
            parts = content if isinstance(content, list) else [{"text": content}]
            said += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(said)


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ParameterError(
            f"threshold must be in (0, 1], got {threshold!r}; 0.8 means that 8 of 10 shingles are shared."
        )


# ---- shingles --------------------------------------------------------------------------------------------------------

_EXACT_ROWS = 2_000  # up to here every pair is compared ...
_EXACT_WORK = 1_000_000_000  # ... unless the texts are so long that this many look-ups would not do
_FEW = 20  # texts; of fewer it cannot be said what most of them say
_CHUNK_BYTES = 1 << 21  # text hashed at once; what it takes fits the cache
_PAIRS = 1 << 21  # pairs proposed at once
_PAIR_WORDS = 1 << 22  # shingles compared at once: 32 MB
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


@dataclass(frozen=True)
class _Shingles:
    """The sets of one column, row after row."""

    values: U32  # distinct within a row
    offsets: Ints  # row i is values[offsets[i]:offsets[i + 1]], never empty

    @property
    def sizes(self) -> Ints:
        return np.diff(self.offsets)


def _first_of_equals(texts: pl.DataFrame) -> Ints:
    """Return for each row the number of the first row that is equal to it."""
    rows = texts.with_row_index("_row").select(pl.col("_row").min().over(texts.columns))
    return rows.to_series().to_numpy().astype(np.int64)


def _columns(texts: pl.DataFrame, *, questions: Sequence[str] = ()) -> list[_Shingles]:
    """Return the shingles of each column; in columns with questions without what most of them say."""
    columns = []
    for i, name in enumerate(texts.columns):
        copies = _first_of_equals(texts.select(name))
        unique = np.unique(copies)  # one question has many answers
        shingles, said, whole = _shingles(texts[name].gather(unique), salt=i)
        if name in questions:
            shingles = _without(shingles, _common(_rows(shingles, np.unique(_first_of(whole)))))
        columns.append(_rows(_with_said(shingles, said), np.searchsorted(unique, copies)))
    return columns


def _components(texts: pl.Series, names: pl.Series, threshold: float, everybody: pl.Series | None) -> Ints:
    """Return for each row the number of the first row that near-duplicates, or its name, connect it with.

    Equal names are neighbours.
    """
    places = (~texts.is_null()).arg_true().to_numpy().astype(np.int64)
    known = texts.drop_nulls().to_frame()
    copies = _first_of_equals(known)
    unique = np.flatnonzero(copies == np.arange(len(copies)))
    distinct = known.to_series().gather(unique)
    shingles, said, whole = _shingles(distinct, salt=0)
    first = _first_of(whole)
    judged = first if everybody is None else first[distinct.is_in(everybody.drop_nulls().unique()).to_numpy()]
    common = _common(_rows(shingles, np.unique(judged)))
    rows = np.unique(first)
    column = _with_said(_without(_rows(shingles, rows), common), said[rows])
    similar = rows[np.stack(_similar_pairs([column], threshold))]
    alike = unique[np.concatenate([np.stack([first, np.arange(len(first))]), similar], axis=1)]
    edges = places[np.concatenate([np.stack([copies, np.arange(len(copies))]), alike], axis=1)]
    again = (names == names.shift()).fill_null(value=False).arg_true().to_numpy().astype(np.int64)
    edges = np.concatenate([edges, np.stack([again - 1, again])], axis=1)
    root = np.arange(len(texts))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    for a, b in edges.T.tolist():
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return np.array([find(i) for i in range(len(texts))], dtype=np.int64)


def _shingles(texts: pl.Series, *, salt: int) -> tuple[_Shingles, U32, U64]:
    """Return the 3-word shingles of each text as 32-bit hashes, a hash of its numbers and signs, and one of its normal form.

    A shorter text is one shingle.
    """
    texts = texts.cast(pl.String)
    ends = np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64))
    parts: list[tuple[U32, Ints, U32]] = [(np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.uint32))]
    whole = [np.zeros(0, np.uint64)]
    start = 0
    while start < len(texts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK_BYTES)))
        forms = _normal_forms(texts[start:stop])
        whole.append(forms.hash(seed=0).to_numpy())
        parts.append(_shingle_chunk(forms.to_list(), salt=salt))
        start = stop
    values, sizes, said = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return _Shingles(values, offsets), said, np.concatenate(whole)


def _normal_forms(texts: pl.Series) -> pl.Series:
    """Return `_canonical` of each text; plain texts, which are most, without a loop."""
    if (texts.str.len_bytes() != texts.str.len_chars()).any():
        texts = texts.str.replace_many(list(_SMART), list(_SMART.values()))
    lower = texts.str.to_lowercase()
    special = lower.str.contains(_SPECIAL)
    if special.all():
        return pl.Series([_canonical(text) for text in texts], dtype=pl.String)
    plain = lower.filter(~special).str.replace_all(r"[^a-z0-9]+", " ").str.strip_chars(" ")
    forms = lower.scatter((~special).arg_true(), plain)
    special |= forms == ""
    return forms.scatter(special.arg_true(), [_canonical(text) for text in texts.filter(special)])


def _shingle_chunk(texts: list[str], *, salt: int) -> tuple[U32, Ints, U32]:
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"\n".join([*encoded, b""]), dtype=np.uint8)
    row_ends = np.cumsum([len(text) + 1 for text in encoded])
    in_word = (data != ord(" ")) & (data != ord("\n"))
    edges = np.diff(in_word.view(np.int8), prepend=np.int8(0), append=np.int8(0))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    # a word's hash is its polynomial in an odd number mod 2**64: prefix sums give all words at once
    powers = np.cumprod(np.full(len(data), _ODD[0]))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(data * powers)])
    inverse = np.uint64(pow(int(_ODD[0]), -1, 1 << 64))
    words = (sums[ends] - sums[starts]) * np.cumprod(np.full(len(data), inverse))[starts]
    words = _mix(words)
    last = np.searchsorted(starts, row_ends)  # the word after the row's last
    n_words = np.diff(last, prepend=0)
    sizes = np.maximum(n_words - 2, 1)
    row = np.repeat(np.arange(len(texts)), sizes)
    at = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(last - n_words, sizes)
    limit = np.repeat(last, sizes)
    padded = np.concatenate([words, np.zeros(3, np.uint64)])
    mixed = np.full(len(row), salt, dtype=np.uint64)
    for k in range(3):
        mixed += np.where(at + k < limit, padded[at + k], np.uint64(0)) * _ODD[k]
    keys = np.sort((row.astype(np.uint64) << np.uint64(32)) | (_mix(mixed) >> np.uint64(32)))
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    first = data[starts]
    digits = np.concatenate([np.zeros(1, np.int32), np.cumsum((data >= ord("0")) & (data <= ord("9")), dtype=np.int32)])
    # a sign, a number, or a name that holds one: vitamin B12 is not B6
    is_said = (first < ord("a")) | ((first > ord("z")) & (first < 128)) | (digits[ends] > digits[starts])
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(np.where(is_said, _mix(words * _ODD[2]), np.uint64(0)))])
    said = _mix(total[last] - total[last - n_words]) >> np.uint64(32)
    return keys.astype(np.uint32), counts, said.astype(np.uint32)


def _rows(shingles: _Shingles, rows: Ints) -> _Shingles:
    if len(rows) == len(shingles.sizes) and np.array_equal(rows, np.arange(len(rows))):
        return shingles
    sizes = shingles.sizes[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    values = np.empty(offsets[-1], np.uint32)
    for start in range(0, len(rows), 10_000):  # the places of all at once would take four times what they point to
        part = slice(start, start + 10_000)
        first = offsets[part.start]
        within = np.arange(sizes[part].sum()) - np.repeat(offsets[:-1][part] - first, sizes[part])
        values[first : first + len(within)] = shingles.values[
            np.repeat(shingles.offsets[rows[part]], sizes[part]) + within
        ]
    return _Shingles(values, offsets)


def _first_of(keys: U64) -> Ints:
    """Return for each row the number of the first row with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _with_said(shingles: _Shingles, said: U32) -> _Shingles:
    """Return shingles that only texts with the same numbers and signs can share."""
    return _Shingles(shingles.values ^ np.repeat(said, shingles.sizes), shingles.offsets)


def _common(shingles: _Shingles) -> U32:
    """Return the shingles that stand in more than half of the rows, if there are at least `_FEW` rows; sorted."""
    n = len(shingles.sizes)
    if n < _FEW:
        return np.zeros(0, np.uint32)
    prefix = (shingles.values >> np.uint32(12)).astype(np.int64)
    often = np.bincount(prefix, minlength=1 << 20) > n / 2  # few prefixes are: count only what can be common
    values, counts = np.unique(shingles.values[often[prefix]], return_counts=True)
    return values[counts > n / 2]


def _without(shingles: _Shingles, common: U32) -> _Shingles:
    """Return the rows without some shingles; a row that would lose all keeps them."""
    if not len(common):
        return shingles
    stays = ~np.isin(shingles.values, common)
    row = np.repeat(np.arange(len(shingles.sizes)), shingles.sizes)
    left = np.bincount(row[stays], minlength=len(shingles.sizes))
    stays |= (left == 0)[row]
    sizes = np.where(left == 0, shingles.sizes, left)
    return _Shingles(shingles.values[stays], np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(29))) * _ODD[1]
    return x ^ (x >> np.uint64(32))


def _stars(texts: list[_Shingles], threshold: float) -> tuple[Ints, Floats]:
    """Return for each row, best first, the kept row it resembles (itself if kept), and how much."""
    n = len(texts[0].sizes)
    star, similarity = np.arange(n), np.ones(n)
    if _compares_all(texts):
        for i, later, score in _all_pairs(texts, threshold, star):
            star[later], similarity[later] = i, score
        return star, similarity
    keys = _band_keys(texts, threshold)
    tested = left = right = np.zeros(0, dtype=np.int64)
    score = np.zeros(0)
    for window in (0, 4, 4, 4):  # first only the best row of each bucket, which resolves large clusters cheaply
        kept = np.flatnonzero(star == np.arange(n))
        # a row whose better neighbours are all duplicates may still resemble what those point to
        follows = (star[right] == right) & (star[left] != left)
        codes = _distinct(np.concatenate([_candidates(keys, kept, window), right[follows] * n + star[left[follows]]]))
        codes = np.setdiff1d(codes, tested, assume_unique=True)
        tested = np.concatenate([tested, codes])
        found = _verified(texts, codes % n, codes // n, threshold)
        left, right, score = (np.concatenate(pair) for pair in zip((left, right, score), found, strict=True))
        star, similarity = _greedy(left, right, score, n)
        if window and np.array_equal(kept, np.flatnonzero(star == np.arange(n))):
            break
    return star, similarity


def _greedy(left: Ints, right: Ints, score: Floats, n: int) -> tuple[Ints, Floats]:
    """Go from the best row to the worst: a row joins the best kept row it resembles, or is kept."""
    star, similarity = list(range(n)), np.ones(n)
    order = np.lexsort((left, right))
    for i, j, s in zip(left[order].tolist(), right[order].tolist(), score[order].tolist(), strict=True):
        if star[i] == i and star[j] == j:
            star[j], similarity[j] = i, s
    return np.array(star, dtype=np.int64), similarity


def _similar_pairs(texts: list[_Shingles], threshold: float) -> tuple[Ints, Ints]:
    """Return pairs of similar rows that connect every cluster."""
    n = len(texts[0].sizes)
    if _compares_all(texts):
        pairs = [(np.full(len(later), i), later) for i, later, _ in _all_pairs(texts, threshold, np.arange(n))]
        empty = np.zeros(0, dtype=np.int64)
        left, right = (np.concatenate([empty, *(pair[side] for pair in pairs)]) for side in (0, 1))
        return left, right
    codes = _candidates(_band_keys(texts, threshold), np.arange(n), 4)
    left, right, _ = _verified(texts, codes % n, codes // n, threshold)
    return left, right


def _compares_all(texts: list[_Shingles]) -> bool:
    n = len(texts[0].sizes)
    return n <= _EXACT_ROWS and n * sum(len(column.values) for column in texts) <= _EXACT_WORK


def _all_pairs(texts: list[_Shingles], threshold: float, star: Ints) -> Iterator[tuple[int, Ints, Floats]]:
    """Yield (row, similar later rows, similarities) for each row that is its own star when its turn comes."""
    columns = [(column, *np.unique(column.values, return_inverse=True)) for column in texts]
    for i in range(len(star) - 1):
        if star[i] != i:
            continue
        lowest = np.ones(len(star) - i - 1)
        for column, distinct, codes in columns:
            at = column.offsets
            here = np.zeros(len(distinct), dtype=np.int64)
            here[codes[at[i] : at[i + 1]]] = 1
            shared = np.add.reduceat(here[codes[at[i + 1] :]], at[i + 1 : -1] - at[i + 1])
            lowest = np.minimum(lowest, shared / (column.sizes[i] + column.sizes[i + 1 :] - shared))
        similar = np.flatnonzero((lowest >= threshold) & (star[i + 1 :] == np.arange(i + 1, len(star))))
        yield i, similar + i + 1, lowest[similar]


def _bands(threshold: float) -> tuple[int, int]:
    """Return (bands, hashes per band): two rows at the threshold meet in a band with p = 0.1, in any with p = 0.99."""
    n_hashes = 16 if threshold > 0.99 else min(16, max(1, round(math.log(0.1) / math.log(threshold))))
    missed = 1 - threshold**n_hashes
    return max(1, math.ceil(math.log(0.01) / math.log(missed))) if missed > 0 else 1, n_hashes


def _band_keys(texts: list[_Shingles], threshold: float) -> U64:
    """Return bands x rows keys; rows with equal keys in a band share its bucket.

    Rows that are similar in every column are similar in each one and in all taken together (the least hash of a union
    is the lesser of the two least hashes). So any of these views may propose; we take the one with the fewest
    collisions, because a long template in one column would throw thousands of rows into one bucket.
    """
    n, (n_bands, n_hashes) = len(texts[0].sizes), _bands(threshold)
    rng = np.random.default_rng(0)
    flips = rng.integers(0, 1 << 32, (n_bands, n_hashes), dtype=np.uint32)
    factors = rng.integers(0, 1 << 31, (n_bands, n_hashes), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    views = np.zeros((len(texts) + (len(texts) > 1), n_bands, n), dtype=np.uint64)
    for start in range(0, n, 2_000):
        stop = min(start + 2_000, n)
        parts = [
            (c.values[c.offsets[start] : c.offsets[stop]], c.offsets[start:stop] - c.offsets[start]) for c in texts
        ]
        for band in range(n_bands):
            for flip, factor in zip(flips[band], factors[band], strict=True):
                least = [np.minimum.reduceat((values ^ flip) * factor, at) for values, at in parts]
                for view, hashes in enumerate(least if len(least) == 1 else [*least, np.minimum.reduce(least)]):
                    key = views[view, band, start:stop]
                    key *= _ODD[0]
                    key += hashes
    return min((_mix(view) for view in views), key=_collisions)


def _collisions(keys: U64) -> float:
    """Return the number of pairs that share a bucket in a few bands."""
    counts = [np.unique(band, return_counts=True)[1].astype(float) for band in keys[:4]]
    return float(sum((c * (c - 1)).sum() for c in counts))


def _candidates(keys: U64, rows: Ints, window: int) -> Ints:
    """Return distinct pairs of rows, each with the best row of its bucket and with `window` neighbours, as codes.

    The code of a pair is worse * n + better, n being the number of all rows. At most window + 1 pairs per row and
    band, however full the bucket is.
    """
    n = keys.shape[1]
    found = np.zeros(0, dtype=np.int64)
    for band in keys:
        order = np.argsort(band[rows], kind="stable")  # `rows` is ascending, so a bucket is in order of preference
        ordered = band[rows[order]]
        same = np.concatenate([[False], ordered[1:] == ordered[:-1]])
        first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        position = np.flatnonzero(same)
        partners = [first[position], *(np.maximum(position - d, first[position]) for d in range(1, window + 1))]
        pairs = [rows[order[position]] * n + rows[order[partner]] for partner in partners]
        found = _distinct(np.concatenate([found, *(_distinct(codes) for codes in pairs)]))
    return found


def _distinct(codes: Ints) -> Ints:
    """Return the sorted distinct values (`np.unique` hashes, which is many times slower on such codes)."""
    ordered = np.sort(codes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _verified(texts: list[_Shingles], left: Ints, right: Ints, threshold: float) -> tuple[Ints, Ints, Floats]:
    """Return the pairs that are similar in every column, with the lowest Jaccard index over the columns."""
    lowest = np.ones(len(left))
    for column in sorted(texts, key=lambda shingles: len(shingles.values)):  # the short texts rule most pairs out
        small, large = np.sort([column.sizes[left], column.sizes[right]], axis=0)
        fits = small >= threshold * large - 1e-9  # the index cannot exceed the ratio of sizes
        left, right, lowest = left[fits], right[fits], lowest[fits]
        lowest = np.minimum(lowest, _jaccard(column, left, right))
        similar = lowest >= threshold
        left, right, lowest = left[similar], right[similar], lowest[similar]
    return left, right, lowest


def _nearest(shingles: _Shingles, left: Ints, right: Ints, threshold: float) -> tuple[Ints, Ints, Floats]:
    """Return for each row of `left` that resembles one of `right` the one it resembles most, and how much.

    Prefix filter: a row with an index of t or more shares at least t of its n shingles, so one of any n - t + 1 of
    them; the rarest are looked up. No pair is missed.

    Source:
        Chaudhuri, Ganti and Kaushik 2006.
    """
    own, other = _rows(shingles, left), _rows(shingles, right)
    ordered = np.sort(other.values)
    n_holders = np.searchsorted(ordered, own.values, "right") - np.searchsorted(ordered, own.values, "left")
    row = np.repeat(np.arange(len(left)), own.sizes)
    rarest = np.lexsort((n_holders, row))
    n_looked_up = own.sizes - np.ceil(threshold * own.sizes - 1e-9).astype(np.int64) + 1
    rank = np.arange(len(rarest)) - own.offsets[row]
    looked_up = rarest[(rank < n_looked_up[row]) & (n_holders[rarest] > 0)]
    wanted = own.values[looked_up]
    table = np.zeros(1 << 24, dtype=bool)
    table[wanted >> np.uint32(8)] = True
    at = np.flatnonzero(table[other.values >> np.uint32(8)])
    at = at[np.argsort(other.values[at], kind="stable")]
    low, high = (np.searchsorted(other.values[at], wanted, side) for side in ("left", "right"))
    holder = np.searchsorted(other.offsets, at, "right") - 1
    ends = np.cumsum(high - low)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    start = 0
    while start < len(wanted):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, "right")))
        n = (high - low)[start:stop]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(low[start:stop], n)
        codes = _distinct(np.repeat(row[looked_up[start:stop]], n) * len(right) + holder[within])
        parts.append(_verified([shingles], left[codes // len(right)], right[codes % len(right)], threshold))
        start = stop
    a, b, score = (np.concatenate(side) for side in zip(*parts, strict=True))
    best = np.lexsort((b, -score, a))
    best = best[np.concatenate([[True], a[best][1:] != a[best][:-1]])] if len(best) else best
    return a[best], b[best], score[best]


def _jaccard(column: _Shingles, left: Ints, right: Ints) -> Floats:
    """Return the exact Jaccard index of each pair: sort both sets together, count the neighbours that are equal."""
    result = np.empty(len(left))
    ends = np.cumsum(column.sizes[left] + column.sizes[right])
    start = 0
    while start < len(left):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIR_WORDS)))
        keys = []
        for side in (left[start:stop], right[start:stop]):
            sizes = column.sizes[side]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            values = column.values[np.repeat(column.offsets[side], sizes) + within]
            keys.append((np.repeat(np.arange(len(side)), sizes).astype(np.uint64) << np.uint64(32)) | values)
        merged = np.sort(np.concatenate(keys))
        twice = merged[1:][merged[1:] == merged[:-1]] >> np.uint64(32)
        shared = np.bincount(twice.astype(np.int64), minlength=stop - start)
        union = column.sizes[left[start:stop]] + column.sizes[right[start:stop]] - shared
        result[start:stop] = shared / union
        start = stop
    return result
