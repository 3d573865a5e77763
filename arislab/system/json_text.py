r"""JSON as it was written: numbers keep their digits, keys their order, and what is no JSON is named.

A line of a user's file, and what is kept of it::

    {"id": 9007199254740993, "price": 1.50, "name": "Z\u00fcrich"}
    {"id": 9007199254740993, "price": 1.50, "name": "Zürich"}

Two readers: what a user hands in is read strictly (``loads``, ``exact``, ``compact``), what a server answered leniently
(``loads_leniently``), because an answer that was paid for is worth more than its form. This module knows no files and
no protocol.
"""

import codecs
import json
import math
import re
from typing import Any

import orjson


class Number(str):
    """A number as the file writes it: ``1.50`` stays ``1.50``, and no digit of a long integer is lost."""

    __slots__ = ()


def loads(data: bytes | str) -> Any:
    """Return a JSON value with Python's numbers; integers are exact.

    Raises:
        ValueError: It is no JSON: also NaN, half a surrogate pair, a key twice in one object, numbers beyond the range
            of a double, hundreds of levels.
    """
    _check(data)
    return _parsed(data, _PYTHON)


def exact(data: bytes | str) -> Any:
    """Return a JSON value that ``dumps`` writes as it stood.

    Where Python would write a number otherwise, it is a ``Number``.

    Raises:
        ValueError: As ``loads``.
    """
    plain, raw = _check(data), data.encode() if isinstance(data, str) else data
    if type(plain) is dict:
        n = 2 * _n_flat(plain)
        # of quotes there are those around each string at least; if there are no more, none is escaped
        if raw.count(b'"') == n or _n_quotes(raw) == n:
            return plain
    try:
        if orjson.dumps(plain) == raw:
            return plain  # nothing was lost: no key twice, no digit, no space
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None
    if _n_quotes(raw) == 2 * _n_strings(plain) and not (b"-0" in raw and _MINUS_ZERO.search(raw.decode())):
        return plain  # no key is lost, for each has its quotes, and no number can be written otherwise
    return _parsed(raw.decode(), _AS_WRITTEN)


def _n_quotes(raw: bytes) -> int:
    """How many quotes begin or end a string."""
    if b"\\" not in raw or rb"\"" not in raw:
        return raw.count(b'"')
    bare = raw.replace(rb"\\", b"")  # what is left before a quote escapes it
    return bare.count(b'"') - bare.count(rb"\"")


def _n_flat(value: dict[str, Any]) -> float:
    """As ``_n_strings`` of an object without others inside, as most lines are; else, and with a 0, NaN."""
    n: float = len(value)
    for part in value.values():
        if type(part) is str:
            n += 1
        elif part is not None and type(part) is not bool and (type(part) is not int or not part):
            return math.nan
    return n


def compact(line: bytes | str) -> str:
    r"""Return a JSON text without insignificant white space.

    Keys in their order, numbers as written, characters unescaped.

    Raises:
        ValueError: As ``loads``.

    Example:
        >>> compact(r'{"b": 1.50, "a": "\u00e9", "n": 12345678901234567890123}')
        '{"b":1.50,"a":"é","n":12345678901234567890123}'
    """
    return dumps(exact(line))


def dumps(value: Any) -> str:
    """Return the JSON text of a value, without white space; a ``Number`` is written as it stood.

    Raises:
        ValueError: Something in it is no JSON value, or is nested too deep.
    """
    try:
        return _dumped(value)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error):
            raise ValueError(str(error)) from None
    return _dumped(_long_as_written(value))


def _dumped(value: Any) -> str:
    # a Number is a str to orjson, and would stand in quotes; passed through, it comes to `default`
    return orjson.dumps(value, default=_token, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()


def _long_as_written(value: Any) -> Any:
    """A value whose integers beyond 64 bits, which orjson does not write, are ``Number``."""
    if isinstance(value, dict):
        return {name: _long_as_written(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_long_as_written(part) for part in value]
    return Number(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def as_text(value: Any) -> str | None:
    """Return what a value of ``exact`` says: a string its characters, a number its digits, an object its JSON.

    A null stays one.
    """
    if value is None:
        return None
    return str(value) if isinstance(value, str) else dumps(value)


def fields(value: Any) -> dict[str, Any]:
    """Return the fields of a value that should be an object; none of anything else, which servers write there too."""
    return value if isinstance(value, dict) else {}


def loads_whole(data: bytes | str) -> Any:
    """Return a JSON value as the fastest reader gives it (of a key twice the last counts), but every integer exact.

    Raises:
        orjson.JSONDecodeError: It is no JSON.
    """
    value = orjson.loads(data)
    if not _may_be_rounded(value):
        return value
    try:
        return json.loads(data)  # orjson makes floats of integers beyond 64 bits
    except RecursionError:
        return value  # nested deeper than any line may be


def stored(text: str) -> Any:
    """Return the value of a JSON text that the lake holds, as Python's own reader gives it, but sooner.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return loads_whole(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # a NaN, or half a surrogate pair: whoever wrote it has taken it


def _may_be_rounded(value: Any) -> bool:
    # a walk of a request takes 1 us where a search for long numbers in its text takes 6
    if type(value) is float:
        return abs(value) >= 2**63
    open_ = [value] if type(value) in _WITH_PARTS else []
    for one in open_:
        for part in one.values() if type(one) is dict else one:
            kind = type(part)
            if kind is str:
                continue
            if kind in _WITH_PARTS:
                open_.append(part)
            elif kind is float and abs(part) >= 2**63:
                return True
    return False


_WITH_PARTS = frozenset((dict, list))


def loads_leniently(data: bytes) -> tuple[Any, tuple[str, ...]]:
    """Return a value that a server wrote, and what had to be overlooked to read it.

    Returns:
        The value (integers exact), and marks: ``bom`` (a byte order mark was dropped), ``latin-1`` (bytes that are no
        UTF-8 were read as Windows-1252), ``surrogates`` (halves of surrogate pairs are U+FFFD now), ``nan`` (NaN and
        what is infinite as a double are null now),
        ``control`` (raw control characters in a string were kept). No marks: it was JSON.

    Raises:
        ValueError: It is no JSON even so.
    """
    try:
        return loads_whole(data), ()
    except orjson.JSONDecodeError:
        return _overlooking(data, int, float, dict)


def exact_leniently(data: bytes) -> tuple[Any, tuple[str, ...]]:
    """Return a value as ``exact`` does, and the marks of ``loads_leniently``.

    Raises:
        ValueError: It is no JSON even so, or has a key twice in one object.
    """
    try:
        return exact(data), ()
    except ValueError:
        return _overlooking(data, Number, Number, _unique)


def _overlooking(data: bytes, integer: type[Any], decimal: type[Any], fields: Any) -> tuple[Any, tuple[str, ...]]:
    text, marks = _decoded(data)
    whole = _ESCAPES.sub(lambda m: "\\ufffd" if m[1] else m[0], text)
    if whole != text:
        marks["surrogates"] = None
    infinite: list[str] = []

    def finite(token: str) -> Any:
        return decimal(token) if abs(float(token)) < math.inf else infinite.append(token)

    how = {"parse_int": integer, "parse_float": finite, "parse_constant": infinite.append, "object_pairs_hook": fields}
    try:
        try:
            value = json.loads(whole, **how)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Invalid control character"):
                raise
            infinite.clear()
            value, marks["control"] = json.loads(whole, **how, strict=False), None
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value, (*marks, *(("nan",) if infinite else ()))


_ESCAPES = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""Of the escapes that tell: an escaped backslash, a whole surrogate pair, and (group 1) half of one."""

_NAMED = {
    "bom": "a byte order mark is no JSON",
    "latin-1": "it is not UTF-8",
    "surrogates": "half a surrogate pair (\\ud800 to \\udfff) is no character",
    "nan": "NaN, and infinity when parsed as double, are no JSON values; write null",
    "control": "a control character in a string must be escaped",
}
_CP1252 = {b: bytes([b]).decode("cp1252") for b in range(0x80, 0xA0) if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
codecs.register_error(
    "arislab.cp1252",
    # an error of a decoder, which has what mypy does not know of every error
    lambda e: (e.object[e.start : e.end].decode("latin-1").translate(_CP1252), e.end),  # type: ignore[attr-defined]
)


def _decoded(data: bytes) -> tuple[str, dict[str, None]]:
    """The characters of bytes that should be UTF-8, and the marks of what they were."""
    bom = b"\xef\xbb\xbf"
    marks: dict[str, None] = {"bom": None} if data.startswith(bom) else {}
    data = data.removeprefix(bom)
    try:
        return data.decode("utf-8"), marks
    except UnicodeDecodeError:
        pass
    try:  # surrogates that were encoded one by one: pairs become their character, halves U+FFFD
        text = data.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    except UnicodeDecodeError:
        return data.decode("utf-8", "arislab.cp1252"), marks | {"latin-1": None}
    return text, marks | {"surrogates": None}


def _check(data: bytes | str) -> Any:
    """What orjson reads, the strictest and fastest of the readers; a number or a key may be lost in it."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(_reason(data, error)) from None


def _reason(data: bytes | str, error: orjson.JSONDecodeError) -> str:
    try:
        _, marks = loads_leniently(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    except ValueError:
        return str(error)
    return "; ".join(_NAMED[mark] for mark in marks) or str(error)


def _n_strings(value: Any) -> float:
    """How many strings a value has, keys too; NaN if it has a fraction, which a text may write in several ways."""
    if isinstance(value, str):
        return 1
    if isinstance(value, dict):
        return len(value) + sum(map(_n_strings, value.values()))
    if isinstance(value, list):
        return sum(map(_n_strings, value))
    return math.nan if isinstance(value, float) else 0


def _parsed(data: bytes | str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(data if isinstance(data, str) else data.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return fields


_MINUS_ZERO = re.compile(r"(?:\A|[\s\[:,])-0")
# made once: making one takes as long as parsing a line
_PYTHON = json.JSONDecoder(object_pairs_hook=_unique)
_AS_WRITTEN = json.JSONDecoder(parse_int=Number, parse_float=Number, object_pairs_hook=_unique)


def _token(value: Any) -> Any:
    if isinstance(value, Number):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is no JSON value")
