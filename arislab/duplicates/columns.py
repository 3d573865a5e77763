"""The normal form of each text of a column; where a text is plain, without a loop.

What this file does not know: which form a text has (``arislab.normal``).
"""

from collections.abc import Callable

import polars as pl

from arislab.normal import SMART, canonical

# Texts of words and plain punctuation, of which there are many, need none of this; polars' regex knows no look-around
_SPECIAL = (
    r"[^\sa-z0-9.,;:?!\"'()-]|[0-9][.,:'][0-9]|\.[0-9]|(?:^|[^a-z0-9.])\.[a-z]|[0-9)]!|\b[a-z]!|![^\s\"')!.]"
    r"|[:;]['-]?[()]|'\(|\b[a-z]'(?:$|[^a-z])|[)]'|(?:^|[^a-z]|\b[a-z])-|-(?:$|[^a-z]|[a-z]\b)"
)

Forms = Callable[[list[str]], list[str]]
"""Texts to what `canonical` makes of each."""


def _in_a_loop(texts: list[str]) -> list[str]:
    return [canonical(text) for text in texts]


def normal_forms(texts: pl.Series, forms_of: Forms = _in_a_loop) -> pl.Series:
    """Return `canonical` of each text; texts of words and plain punctuation without a loop."""
    forms, is_plain = worded(texts, forms_of)
    plain = forms.filter(is_plain).str.replace_all(r"[^a-z0-9]+", " ").str.strip_chars(" ")
    return forms.scatter(is_plain.arg_true(), plain)


def worded(texts: pl.Series, forms_of: Forms = _in_a_loop) -> tuple[pl.Series, pl.Series]:
    """Return texts whose words are those of their normal form, and which of them are plain.

    The words of a plain text are its letters a to z and digits, whatever stands between; the others are normal forms.
    """
    texts = without_smart(texts)
    lower = texts.str.to_lowercase()
    is_plain = ~lower.str.contains(_SPECIAL) & lower.str.contains("[a-z0-9]")  # punctuation alone stays as it is
    special = (~is_plain).arg_true()
    return lower.scatter(special, forms_of(texts.gather(special).to_list())), is_plain


def without_smart(texts: pl.Series) -> pl.Series:
    """Return texts with plain punctuation for `SMART`."""
    beyond = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if not len(beyond):  # nothing to look for
        return texts
    return texts.clone().scatter(beyond, texts.gather(beyond).str.replace_many(list(SMART), list(SMART.values())))
