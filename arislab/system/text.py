"""Text of strangers, fit to be shown: without what would steer a terminal, and escaped where it stands in HTML or SQL.

What a record, a model or a table holds may carry an escape sequence that clears the screen, sets the clipboard or hides
what stands before it. What is shown holds no secret either (``masking``).
"""

import builtins
import html as _html
import re
import sys
from typing import TextIO

from arislab.system import masking

TURNING = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
"""Characters, for a class of a regular expression, that turn the order of writing, or end a line beside ``\n``."""
_TAGS = "\U000e0000-\U000e007f"  # letters that nobody sees
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
"""Letters and marks that are drawn as nothing, though Unicode counts them among those that are seen."""
UNSEEN = (
    f"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{TURNING}{_TAGS}{FILLERS}\xad\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f"
    "\u2800\ufe00-\ufe0f\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0080-\U000e0fff"
)
"""Characters, for a class of a regular expression, that show nothing: controls but tab, line feed and carriage return,
formats, fillers, variation selectors, tags. More than ``terminal`` takes out: a joiner in an emoji steers nothing."""

_STEERING = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, the cursor, clearing
    "|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\\\|\x9c)"  # OSC, DCS, …: title, links
    "|\x1b[ -/]*[0-~]?"  # any other escape sequence, or the start of one
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # C0 but tab and line feed, DEL, C1
    f"|[{TURNING}{_TAGS}]"
)
AS_IS = 'class="mathjax_ignore tex2jax_ignore"'
"""Of HTML elements that hold names and texts of others: elsewhere Jupyter shows what stands between two dollar signs as
a formula."""
_STEERING_IN_JSON = re.compile(f"[\x7f-\x9f{TURNING}{_TAGS}]")  # JSON escapes the rest itself


def terminal(text: str) -> str:
    r"""Return a text without what steers a terminal.

    Escape sequences, control characters but tab and line feed, turns of direction.

    Example:
        >>> terminal("a\x1b[2Jb\x1b]0;title\x07c\u202ed\r\n")
        'abcd\n'
    """
    return _STEERING.sub("", text)


def one_line(text: str) -> str:
    r"""Return a text as one line for a terminal: a record's reason must not look like a row of its own.

    Example:
        >>> one_line("no\n  such\tfile")
        'no such file'
    """
    return " ".join(terminal(text).split())


def json_text(text: str) -> str:
    r"""Return JSON that means the same, with the characters that steer a terminal written as ``\u…``.

    Example:
        >>> json_text('{"a": "x\u202ey"}')
        '{"a": "x\\u202ey"}'
    """
    return _STEERING_IN_JSON.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def html(text: object, *, quote: bool = True) -> str:
    r"""Return a text as it may stand in HTML, between tags and, with ``quote``, in attributes.

    Example:
        >>> html("<b>\x1b[1m'x'")
        '&lt;b&gt;&#x27;x&#x27;'
    """
    return _html.escape(terminal(str(text)), quote=quote)


def identifier(name: str) -> str:
    """Return the name of a column as SQL reads it, whatever is in it.

    Example:
        >>> identifier('a "b"; drop')
        '"a ""b""; drop"'
    """
    return '"' + name.replace('"', '""') + '"'


def print_secret(text: str) -> None:
    """Print a line that holds a secret, for whoever reads the terminal; only what steers it is taken out."""
    sys.stdout.write(terminal(text) + "\n")


def print(*values: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print as the builtin does, without secrets and what steers a terminal; every command prints with this one."""
    text = terminal(masking.masked(sep.join(map(str, values))))
    builtins.print(text, end=end, file=file or sys.stdout, flush=flush)
