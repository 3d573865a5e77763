"""An IPython extension of the kernels of recorded runs: what a cell prints and shows ends somewhere.

A loop that prints a gigabyte would fill the disk with its log, and one text or display of that size the memory of
whoever receives it; so the kernel itself stops passing it on, and says how much it left out. What a kernel sends is
received whole before anybody can look at it: the bytes that a widget sends beside its state are not looked at here.
Python's collector, which looks at all that a cell holds, is slowed down here too.
This module loads nothing of arislab.
"""

import atexit
import gc
import sys
from collections.abc import Callable
from typing import Any

CELL_CHARACTERS = 10_000_000
"""Most characters that a cell's stdout, and its stderr, pass on."""
MESSAGE_BYTES = 100_000_000
"""Most bytes of one message, such as a display or an error; of a cell's displays a record keeps fewer."""
_TEXT_CHARACTERS = 100_000
"""Most characters of a text that are left in a message that was too large."""


class _Limited:
    """The ``write`` of a stream, up to a number of characters a cell."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write, self.left, self.n_dropped = write, CELL_CHARACTERS, 0

    def __call__(self, text: str) -> int:
        if not isinstance(text, str):
            self._write(text)  # raises what it always raised
        if len(text) <= self.left:
            self.left -= len(text)
            self._write(text)
        else:
            if self.left:
                self._write(text[: self.left])
            self.n_dropped += len(text) - self.left
            self.left = 0
        return len(text)

    def cell_ends(self) -> None:
        """Say what was left out, and begin to count anew."""
        if self.n_dropped:
            kept = f"a cell passes on {CELL_CHARACTERS:,}"
            self._write(f"\n[{self.n_dropped:,} more characters were printed and not kept: {kept}]\n")
        self.left, self.n_dropped = CELL_CHARACTERS, 0


def _packed(content: dict[str, Any], pack: Callable[[Any], bytes]) -> bytes:
    """The content of a message as it is sent; of one that is too large, what is short in it, and a note."""
    packed = pack(content)
    if len(packed) <= MESSAGE_BYTES:
        return packed
    note = f"[{len(packed):,} bytes were shown at once and not kept: a cell passes on {MESSAGE_BYTES:,}]"
    if not ("data" in content and "metadata" in content):
        return pack(_cut(content, note))
    short = {
        kind: text for kind, text in content["data"].items() if isinstance(text, str) and len(text) <= _TEXT_CHARACTERS
    }
    short["text/plain"] = f"{short.get('text/plain', '')}\n{note}".lstrip("\n")
    return pack(content | {"data": short})


def _cut(value: Any, note: str) -> Any:
    """A value whose long texts are cut: the message of an error, or what a widget shows."""
    if isinstance(value, dict):
        return {name: _cut(part, note) for name, part in value.items()}
    if isinstance(value, list):
        return [_cut(part, note) for part in value]
    is_long = isinstance(value, str) and len(value) > _TEXT_CHARACTERS
    return f"{value[:_TEXT_CHARACTERS]}\n{note}" if is_long else value


def _limit_messages(session: Any) -> None:
    serialize = session.serialize

    def limited(msg: dict[str, Any], ident: Any = None) -> Any:
        content = msg.get("content")
        if isinstance(content, dict):
            msg = {**msg, "content": _packed(content, session.pack)}
        return serialize(msg, ident)

    session.serialize = limited


def _end_control(kernel: Any) -> None:
    """Let the thread that was told to end the kernel say its last word.

    ipykernel ends the thread by which it says it before, now and then, and then waits for it without end: in one of ten
    runs, until the kernel is killed after 2.5 s.
    """
    thread = getattr(kernel, "control_thread", None)
    if thread is not None and thread.is_alive():
        thread.stop()
        thread.join(timeout=1)


def load_ipython_extension(shell: Any) -> None:
    """Limit stdout, stderr and the messages of this kernel, and how long it takes to end."""
    atexit.register(gc.freeze)  # else Python looks for circles in all that is left: a fifth of a second
    gc.set_threshold(100_000, *gc.get_threshold()[1:])  # not every 700 objects: rows are many, and none is in a circle
    atexit.register(_end_control, shell.kernel)
    _limit_messages(shell.display_pub.session)
    for stream in (sys.stdout, sys.stderr):
        limited = _Limited(stream.write)
        # the kernel's own stream, since a wrapper would hide its other methods
        stream.write = limited  # type: ignore[method-assign]
        shell.events.register("post_run_cell", lambda _, limited=limited: limited.cell_ends())
