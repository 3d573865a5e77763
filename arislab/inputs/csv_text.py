r"""CSV as it was written: every field is text, nothing is guessed.

Three lines of a file, the separator being ``;``::

    badge;postcode;note
    007;02116;"said ""hi"", left"
    0100;;""

The second row's postcode is missing (null), its note is empty (``""``): the two are told apart. A row ends at ``\n`` or
``\r\n``, fields in quotes may hold both. Python's csv module tells neither an empty field from a missing one nor where
a quote was left open, and polars fills short rows up. This module knows no files and no columns.
"""

import re
from collections.abc import Iterator

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Those that ``separator`` recognises, with their names."""

_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"')


def separator(text: str) -> tuple[str, int]:
    r"""Return the separator of a text and where its header begins.

    A first line ``sep=;`` (Excel) says it, else the header does.

    Example:
        >>> separator("sep=;\nid;t")
        (';', 6)
        >>> separator('id\t"t, u"\n')
        ('\t', 0)
    """
    named = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    if named:
        return named[1], named.end()
    header = _QUOTED.sub("", text[: text.find("\n") if "\n" in text else len(text)])
    return max(SEPARATORS, key=header.count), 0  # the first of equals: the comma


def records(text: str, separator: str, *, line: int = 1) -> Iterator[tuple[int, list[str | None]]]:
    r"""Yield the number of its first line and the fields of each row that is not blank; a missing field is null.

    Args:
        text: Without a byte order mark.
        separator: One character.
        line: Number of the first line.

    Raises:
        ValueError: A quote is left open or followed by text, or a ``\r`` stands alone outside quotes; the message has
            the line.

    Example:
        >>> list(records('a,b\n"x\ny",\n', ","))
        [(1, ['a', 'b']), (2, ['x\ny', None])]
    """
    plain = re.compile(rf"[^{re.escape(separator)}\r\n]*")
    start, n = 0, len(text)
    while start < n:
        stop = text.find("\n", start) % (n + 1)  # -1: the end
        row = text[start : stop - 1 if text.startswith("\r", stop - 1, stop) else stop]
        if '"' in row:
            fields, stop = _fields(text, start, separator, plain, line)
            yield line, fields
        elif "\r" in row:
            raise ValueError(_alone(line))
        elif row:
            yield line, [field or None for field in row.split(separator)]
        line += text.count("\n", start, stop) + 1
        start = stop + 1


def _fields(text: str, at: int, separator: str, plain: re.Pattern[str], line: int) -> tuple[list[str | None], int]:
    """The fields of a row with quotes, and where it ends."""
    fields: list[str | None] = []
    while True:
        if text.startswith('"', at):
            quoted = _QUOTED.match(text, at)
            if quoted is None:
                raise ValueError(f"line {line}: a quote is opened and never closed")
            fields.append(quoted[1].replace('""', '"'))
            line += quoted[0].count("\n")
            at = quoted.end()
        else:
            match = plain.match(text, at)
            fields.append((match[0] or None) if match else None)
            at += len(fields[-1] or "")
        if text.startswith(separator, at):
            at += 1
        elif at == len(text) or text.startswith("\n", at):
            return fields, at
        elif text.startswith("\r\n", at) or (at == len(text) - 1 and text[at] == "\r"):
            return fields, at + 1
        elif text.startswith("\r", at):
            raise ValueError(_alone(line))
        else:
            raise ValueError(f"line {line}: text follows a closing quote; write a quote within quotes twice")


def _alone(line: int) -> str:
    return f"line {line}: a carriage return stands alone outside quotes; end lines with \\n or \\r\\n"
