"""Answers laid out for reading and editing, and what was typed put back into the layout of the original."""

import difflib
import html
import json
import re

from arislab.system.text import UNSEEN

_HIDDEN = re.compile(rf"[{UNSEEN}]|\r(?!\n)")
_JOINERS = "\u200c\u200d"


def _is_hidden(match: re.Match[str]) -> bool:
    """Whether a character shows nothing where it stands.

    A joiner between letters of Persian, or in an emoji, is part of what is seen.
    """
    text, at = match.string, match.start()
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if match[0] in _JOINERS:
        return not (_is_sign(before) and _is_sign(after))
    if "\ufe00" <= match[0] <= "\ufe0f":  # of digits, # and * they make keycaps; elsewhere rows of them carry messages
        return not (_is_sign(before) or (before and before in "0123456789#*"))
    return True


def _is_sign(character: str) -> bool:
    """Whether it is a letter or sign beyond ASCII (a variation selector ends one)."""
    return character > "\x7f" and (not _HIDDEN.match(character) or character == "\ufe0f")


def hidden(text: str) -> list[str]:
    """Return the characters of a text that would not show, each once: ``["U+202E"]``."""
    return list(dict.fromkeys(f"U+{ord(m[0]):04X}" for m in _HIDDEN.finditer(text) if _is_hidden(m)))


def visible(text: str) -> str:
    """Return a text as HTML that shows every character of it.

    Example:
        >>> visible("a<b\u202e")
        'a&lt;b<mark>U+202E</mark>'
    """
    return _marked(html.escape(text))  # in this order: the marks are HTML of our own


def parts(text: str) -> list[tuple[str, bool]]:
    """Return a text in parts, each with whether it stands for a character that would not show.

    Example:
        >>> parts("a<b\u202e")
        [('a<b', False), ('U+202E', True)]
    """
    found, end = list[tuple[str, bool]](), 0
    for match in _HIDDEN.finditer(text):
        if _is_hidden(match):
            found += [(text[end : match.start()], False), (f"U+{ord(match[0]):04X}", True)]
            end = match.end()
    return [part for part in (*found, (text[end:], False)) if part[0]]


def seen(text: str) -> str:
    """Return a text with the number of each character that would not show in its place."""
    return "".join(part for part, _ in parts(text))


def _marked(markup: str) -> str:
    return _HIDDEN.sub(lambda m: f"<mark>U+{ord(m[0]):04X}</mark>" if _is_hidden(m) else m[0], markup)


_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MOST = 4_000_000
"""Pairs of words that are compared at most, beyond what both texts begin and end with: some seconds."""


def differences(before: str, after: str) -> list[tuple[str, str]]:
    """Return what became of a text, word by word: ("", text that stays), ("del", that went), ("ins", that came).

    Example:
        >>> differences("a good nurse", "a very good one")
        [('', 'a '), ('ins', 'very '), ('', 'good '), ('del', 'nurse'), ('ins', 'one')]
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    most = min(len(old), len(new)) - start
    end = next((i for i in range(most) if old[-1 - i] != new[-1 - i]), most)
    same, tail = "".join(old[:start]), "".join(old[len(old) - end :])
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    made = [("", same)]
    if len(old) * len(new) > _MOST:
        made += [("del", "".join(old)), ("ins", "".join(new))]
    else:
        for kind, a, b, c, d in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
            if kind == "equal":
                made.append(("", "".join(old[a:b])))
            else:
                made += [("del", "".join(old[a:b])), ("ins", "".join(new[c:d]))]
    return [(kind, text) for kind, text in (*made, ("", tail)) if text]


# JSON is laid out token by token, so that not a character of a value changes on the way to the screen and back.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_LAYOUTS = ((", ", ": "), (",", ":"))


def _parses(text: str) -> bool:
    """Whether the text can be laid out as a JSON object or list; by what rules it is JSON is not asked here."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def laid_out(text: str) -> str:
    """Return JSON on one line per value, other text as it is."""
    if not _parses(text):
        return text
    lines, indent, before = "", 0, ""
    for token in _TOKEN.findall(text):
        if token in "}]":
            indent -= 1
        if (before in ("{", "[", ",") and token not in "}]") or (token in "}]" and before not in "{["):
            lines += "\n" + "  " * indent
        lines += token + (" " if token == ":" else "")
        indent += token in "{["
        before = token
    return lines.lstrip("\n")


def pretty_html(text: str) -> str:
    """Return a text as HTML, characters that nobody sees by their number; JSON one value a line, its keys in bold."""
    escaped = html.escape(laid_out(text), quote=False)
    if _parses(text):
        escaped = re.sub(r'^( *)("(?:[^"\\]|\\.)*")(?=: )', r"\1<b>\2</b>", escaped, flags=re.M)
    return _marked(escaped)


def as_typed(text: str, *, original: str) -> str:
    r"""Return what the text field holds in the layout of the original.

    It is the original itself, if only the layout is another.

    White space between the tokens of JSON is layout, and so are the line ends that a text field makes of ``\r\n``. In
    other texts every character counts.
    """
    if _parses(text) and _parses(original):
        tokens, before = _TOKEN.findall(text), _TOKEN.findall(original)
        if tokens == before:
            return original
        start, end = len(original) - len(original.lstrip()), len(original.rstrip())
        if "\n" not in original[start:end]:  # what has lines of its own was edited in these, not in ours
            one_line = original[start:end]
            comma, colon = next((one for one in _LAYOUTS if _on_one_line(before, *one) == one_line), _LAYOUTS[0])
            return original[:start] + _on_one_line(tokens, comma, colon) + original[end:]
    return text if "\r" in text else text.replace("\n", _line_end(original))


def _on_one_line(tokens: list[str], comma: str, colon: str) -> str:
    return "".join({",": comma, ":": colon}.get(token, token) for token in tokens)


def _line_end(text: str) -> str:
    """The line end of a text that has one kind of them; a text field makes each of them a line feed."""
    kinds = set(re.findall(r"\r\n|\r|\n", text))
    return str(kinds.pop()) if len(kinds) == 1 else "\n"
