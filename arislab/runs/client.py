"""nbclient with bounds: streams are joined as they come, and a cell holds so many outputs and bytes until it ends."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

from arislab.runs.notebook import CAP_BYTES, Notebook, text_of

_MOST_OUTPUTS = 2_000
_HELD_BYTES = 50_000_000
_MORE = "\n[more was printed than a cell keeps; log.txt has more of it]\n"


def make_client(
    notebook: Notebook, *, write: Callable[[str], object], hear: Callable[[dict[str, Any]], object], **settings: Any
) -> Any:
    """Return an nbclient for the notebook, whose streams are joined as they come and bounded a cell.

    Args:
        notebook: Saved now and then while messages come.
        write: Gets all text that cells print.
        hear: Gets each message of the kernel.
        settings: nbclient's.
    """
    from nbclient import NotebookClient

    room = _Room()

    class Client(NotebookClient):  # type: ignore[misc]
        def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] == "stream":
                write(msg["content"]["text"])
            hear(msg)
            shown = super().process_message(msg, cell, cell_index)
            notebook.save(at_once=False)
            return shown

        def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
            content = msg["content"]
            if not room.takes(outs, content, cell_index, is_cleared=self.clear_before_next_output):
                return None
            is_plain = msg["msg_type"] == "stream" and not self.clear_before_next_output
            if not is_plain or self.output_hook_stack[msg["parent_header"].get("msg_id")]:
                return super().output(outs, msg, display_id, cell_index)
            # only those at the end: what is printed after a picture stays below it
            streams = list(takewhile(lambda o: o.output_type == "stream", reversed(outs)))
            last = next((o for o in streams if o.name == content["name"]), None)
            if last is None:
                made = super().output(outs, msg, display_id, cell_index)
                if len(made.text) > CAP_BYTES // 2:
                    made.text = made.text[: CAP_BYTES // 2] + _MORE
                return made
            kept = sum(len(o.text) for o in outs if o.output_type == "stream")
            if kept < CAP_BYTES // 2:
                last.text += content["text"][: CAP_BYTES // 2 - kept]
            elif not last.text.endswith(_MORE):
                last.text += _MORE
            return None

    return Client(notebook.nb, **settings)


class _Room:
    """How many outputs of a cell are held until it ends: a loop of displays would fill the memory."""

    def __init__(self) -> None:
        self._cell, self._n_bytes, self._n_left_out = -1, 0, 0

    def takes(self, outs: list[Any], content: dict[str, Any], cell: int, *, is_cleared: bool) -> bool:
        """Say whether one more output is held; a mark counts those that are not. Why a cell failed is always told."""
        if "ename" in content:
            return True
        if cell != self._cell or not outs or is_cleared:
            self._cell, self._n_bytes, self._n_left_out = cell, 0, 0
        self._n_bytes += sum(len(text_of(value)) for value in content.get("data", {}).values())
        fits = not self._n_left_out and len(outs) < _MOST_OUTPUTS and self._n_bytes <= _HELD_BYTES
        if is_cleared or fits:
            return True
        self._n_left_out += 1
        bounds = f"a cell keeps {_MOST_OUTPUTS:,}, and {_HELD_BYTES:,} bytes"
        note = f"[{self._n_left_out:,} more outputs were not kept: {bounds}]\n"
        if self._n_left_out == 1:
            from nbformat import NotebookNode

            outs.append(NotebookNode(output_type="stream", name="stderr", text=note))
        else:
            outs[-1].text = note
        return False
