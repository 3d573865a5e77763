"""One notebook in one kernel, cell by cell, saved as it goes: what papermill's engine should have told the truth about.

papermill's own engine marks cells that a killed kernel never ran as completed, writes the whole file twice a cell in
place, and keeps what a cell prints without bound. Here a cell is ``completed``, ``failed``, ``running`` (it was when
everything ended) or ``not-run``; the file is replaced whole, at most every two seconds; streams are joined as they
come; and a cell keeps ``CAP_BYTES`` of output, the rest goes to the log and to files. This module does not know run
records: ``kernel`` says what became of the notebook.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson

from arislab.system.files import replace
from arislab.system.text import html

CAP_BYTES = 256_000
"""Most bytes of output that a cell keeps in the notebook."""
SAVE_S = 2.0
"""Least seconds between two saves while cells run; a save that takes long is made less often."""
INJECTED = "injected-parameters"
"""papermill's tag of the cell with the parameters that were passed, and here its id in every run."""

_WIDGET = "application/vnd.jupyter.widget-view+json"
_ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg", "text/html": "html", "text/plain": "txt"}


class Notebook:
    """A notebook that is being executed, and its file.

    Args:
        nb: An nbformat 4 notebook; its outputs and states are cleared.
        path: Where it is saved; null: nowhere.
        overflow: Folder for outputs that are too large for the notebook; made when needed.
        also: Gets the notebook after each save.
        clean: Takes secrets out of what is written.
    """

    def __init__(
        self,
        nb: Any,
        *,
        path: Path | None,
        overflow: Path,
        also: Callable[[Any], object] | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self.nb, self._path, self._overflow, self._also, self._clean = nb, path, overflow, also, clean
        self._saved_at, self._pause_s = float("-inf"), SAVE_S
        self.n_saves = 0
        began = {"start_time": _now(), "end_time": None, "duration": None, "exception": None}
        nb.metadata["papermill"] = {**nb.metadata.get("papermill", {}), **began}
        for cell in nb.cells:
            cell.metadata["papermill"] = {
                "status": "pending",
                "exception": None,
                "start_time": None,
                "end_time": None,
                "duration": None,
            }
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if INJECTED in cell.metadata.get("tags", []):
                cell["id"] = INJECTED

    def cell_starts(self, cell: Any) -> None:
        """Note that a cell runs."""
        cell.metadata.papermill |= {"status": "running", "start_time": _now()}
        self.save(at_once=False)

    def cell_ends(self, cell: Any, *, failed: bool, widgets: dict[str, Any]) -> None:
        """Note how a cell ended, and bring its outputs into the bounds."""
        state = cell.metadata.papermill
        state |= _ended(state.start_time) | {
            "status": "failed" if failed else "completed",
            "exception": failed,
        }
        self._bound(cell)
        show_widgets([cell], widgets)
        self.save(at_once=False)

    def ends(self, *, exception: bool, widgets: dict[str, Any]) -> None:
        """Note the end of all: what did not run says so. The file is written, or the disk's error raised.

        Raises:
            OSError: The file cannot be written.
        """
        for cell in self.nb.cells:
            state = cell.metadata.papermill
            if state.status == "pending":
                state.status = "not-run" if cell.cell_type == "code" and cell.source.strip() else "completed"
        show_widgets(self.nb.cells, widgets)
        self.nb.metadata.papermill |= {"exception": exception} | _ended(self.nb.metadata.papermill.start_time)
        self.save()

    def save(self, *, at_once: bool = True) -> None:
        """Write the file whole; unless ``at_once``, not more often than it is worth.

        Raises:
            OSError: The file cannot be written, and it was at once; else the next save tries again.
        """
        began = time.monotonic()
        if self._path is None or (not at_once and began - self._saved_at < self._pause_s):
            return
        try:
            replace(self._path, self._clean(_written(self.nb, is_last=at_once)))
            if self._also is not None:
                self._also(self.nb)
        except OSError:
            if at_once:
                raise
        self.n_saves += 1
        self._saved_at = time.monotonic()
        self._pause_s = max(SAVE_S, 20 * (self._saved_at - began))

    def _bound(self, cell: Any) -> None:
        """Move the outputs that do not fit into the notebook to files, and say where they are."""
        room, n_moved = CAP_BYTES, 0
        for number, output in enumerate(cell.outputs):
            room -= 100
            if output.output_type == "stream":
                output.text = _overwritten(output.text)
                room -= len(output.text)
            for kind, value in sorted(output.get("data", {}).items(), key=lambda pair: len(_text(pair[1]))):
                size = len(_text(value))
                if size <= room:
                    room -= size
                    continue
                n_moved += 1
                name = f"{cell.get('id', 'cell')}-{number}.{_ENDINGS.get(kind, 'json')}"
                note = f"[{size:,} bytes of {kind}: more than a cell keeps; {self._keep(name, kind, value)}]"
                del output["data"][kind]
                output["data"]["text/plain"] = f"{output['data'].get('text/plain', '')}\n{note}".lstrip("\n")
            if n_moved >= _MOST_FILES:
                rest, cell.outputs = cell.outputs[number + 1 :], cell.outputs[: number + 1]
                if rest:
                    name = f"{cell.get('id', 'cell')}-rest.json"
                    output["data"]["text/plain"] += f"\n[{len(rest):,} more outputs; {self._keep(name, 'json', rest)}]"
                return

    def _keep(self, name: str, kind: str, value: Any) -> str:
        """Store an output in a file, and say where it is, or why it is not."""
        import base64

        is_binary = kind in ("image/png", "image/jpeg")
        data = (
            base64.b64decode(_text(value))
            if is_binary
            else self._clean(_text(value)).encode("utf-8", "backslashreplace")
        )
        try:
            self._overflow.mkdir(exist_ok=True)
            (self._overflow / name).write_bytes(data)
        except OSError as error:
            return f"not stored: {error.strerror}"
        return f"whole in {self._overflow.name}/{name}"


def _written(nb: Any, *, is_last: bool) -> str:
    """The notebook as JSON; while cells run in the form that is fastest to write, at the end in Jupyter's own."""
    if not is_last:
        with contextlib.suppress(orjson.JSONEncodeError):  # half a character: Jupyter's way can write it
            return orjson.dumps(nb, option=orjson.OPT_INDENT_2).decode()
    from nbformat.v4 import writes

    return f"{writes(nb)}\n"


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _ended(started: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    took = now - datetime.fromisoformat(started)
    return {"end_time": now.isoformat(timespec="milliseconds"), "duration": took.total_seconds()}


def show_widgets(cells: list[Any], widgets: dict[str, Any]) -> None:
    """Put words beside every widget, for readers without its kernel.

    Progress bars end where they ended, panels say what they are.

    Args:
        cells: Cells of a notebook.
        widgets: State of each widget model by its id, as nbclient collects it.
    """
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if _WIDGET not in data:
                continue
            told = " ".join(_words(data[_WIDGET].get("model_id", ""), widgets)).strip()
            if told and ("text/html" not in data or data.get("text/html") == _pre(data.get("text/plain", ""))):
                data["text/plain"], data["text/html"] = told, _pre(told)


def _pre(text: str) -> str:
    return f"<pre>{html(text)}</pre>"


def _words(model_id: str, widgets: dict[str, Any]) -> list[str]:
    """What a widget and its children say, depth first."""
    state = widgets.get(model_id, {})
    kind, value = str(state.get("_model_name", "")), state.get("value")
    words = [str(state["description"])] if state.get("description") else []
    if "Progress" in kind and value is not None:
        words.append(f"{value:g}/{state.get('max', 100):g}")
    elif isinstance(value, str) and value:
        words.append(re.sub(r"<[^>]+>", "", value) if "HTML" in kind else value)
    elif isinstance(value, (bool, int, float)) and not isinstance(state.get("children"), list):
        words.append(str(value))
    for child in state.get("children") or []:
        words += _words(str(child).removeprefix("IPY_MODEL_"), widgets)
    return words


def make_client(notebook: Notebook, *, write: Callable[[str], object], **settings: Any) -> Any:
    """Return an nbclient for the notebook, whose streams are joined as they come and bounded a cell.

    Args:
        notebook: Saved now and then while messages come.
        write: Gets all text that cells print.
        settings: nbclient's.
    """
    from nbclient import NotebookClient

    room = _Room()

    class Client(NotebookClient):  # type: ignore[misc]
        def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] == "stream":
                write(msg["content"]["text"])
            found = super().process_message(msg, cell, cell_index)
            notebook.save(at_once=False)
            return found

        def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
            content = msg["content"]
            if not room.takes(outs, content, cell_index, is_cleared=self.clear_before_next_output):
                return None
            is_plain = msg["msg_type"] == "stream" and not self.clear_before_next_output
            if not is_plain or self.output_hook_stack[msg["parent_header"].get("msg_id")]:
                return super().output(outs, msg, display_id, cell_index)
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
        self._n_bytes += sum(len(_text(value)) for value in content.get("data", {}).values())
        fits = not self._n_left_out and len(outs) < _MOST_OUTPUTS and self._n_bytes <= _HELD_BYTES
        if is_cleared or fits:
            return True
        self._n_left_out += 1
        note = f"[{self._n_left_out:,} more outputs were not kept: a cell keeps {_MOST_OUTPUTS:,}, and {_HELD_BYTES:,} bytes]\n"
        if self._n_left_out == 1:
            from nbformat import NotebookNode

            outs.append(NotebookNode(output_type="stream", name="stderr", text=note))
        else:
            outs[-1].text = note
        return False


_MORE = "\n[more was printed than a cell keeps; log.txt has more of it]\n"
_MOST_FILES = 20
_MOST_OUTPUTS = 2_000
_HELD_BYTES = 50_000_000


def _overwritten(text: str) -> str:
    r"""What a terminal shows of text with carriage returns: each ``\r`` starts its line again (progress bars)."""
    if "\r" not in text:
        return text
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
