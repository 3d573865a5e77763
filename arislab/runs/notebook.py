"""A notebook that is being executed, saved as it goes: what papermill's engine should have told the truth about.

papermill's own engine marks cells that a killed kernel never ran as completed, writes the whole file twice a cell in
place, and keeps what a cell prints without bound. Here a cell is ``completed``, ``failed``, ``running`` (it was when
everything ended) or ``not-run``; the file is replaced whole, at most every two seconds; streams are joined as they
come; and a cell keeps ``CAP_BYTES`` of output, the rest goes to the log and to files. This module does not know run
records: ``kernel`` says what became of the notebook.
"""

import base64
import contextlib
import html
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from arislab.records.outputs import INJECTED, WIDGET_MIME
from arislab.system import text
from arislab.system.files import replace

CAP_BYTES = 256_000
"""Most bytes of output that a cell keeps in the notebook."""
MAIN_PLOT = "main-plot"
"""Tag of the cell whose first figure is that of the run, which is also kept as ``outputs/main-plot.png``. Without such
a cell it is the last figure of the notebook."""
SAVE_S = 2.0
"""Least seconds between two saves while cells run; a save that takes long is made less often."""

_MOST_FILES = 20
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
        if not exception and (figure := main_figure(self.nb)):
            self._keep(f"{MAIN_PLOT}.png", "image/png", figure)
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
        # at most a twentieth of the time goes into saving, however large the notebook
        self._pause_s = max(SAVE_S, 20 * (self._saved_at - began))

    def _bound(self, cell: Any) -> None:
        """Move the outputs that do not fit into the notebook to files, and say where they are."""
        room, n_moved = CAP_BYTES, 0
        for number, output in enumerate(cell.outputs):
            # what JSON needs around an output
            room -= 100
            if output.output_type == "stream":
                output.text = _overwritten(output.text)
                room -= len(output.text)
            # the smallest first: of one output, as many forms as possible stay
            for kind, value in sorted(output.get("data", {}).items(), key=lambda pair: len(text_of(pair[1]))):
                size = len(text_of(value))
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
        is_binary = kind in ("image/png", "image/jpeg")
        data = (
            base64.b64decode(text_of(value))
            if is_binary
            else self._clean(text_of(value)).encode("utf-8", "backslashreplace")
        )
        try:
            self._overflow.mkdir(exist_ok=True)
            (self._overflow / name).write_bytes(data)
        except OSError as error:
            return f"not stored: {error.strerror}"
        return f"whole in {self._overflow.name}/{name}"


def main_figure(nb: Any) -> str | None:
    """Return the figure that a run is looked at by, as base64 of a PNG; null if the notebook shows none.

    Args:
        nb: An executed notebook; which of its figures is told by ``MAIN_PLOT``.
    """
    shown = [
        (MAIN_PLOT in cell.metadata.get("tags", []), text_of(output["data"]["image/png"]))
        for cell in nb.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    tagged = [figure for is_main, figure in shown if is_main]
    return tagged[0] if tagged else shown[-1][1] if shown else None


def _written(nb: Any, *, is_last: bool) -> str:
    """The notebook as JSON; while cells run in the form that is fastest to write, at the end in Jupyter's own."""
    if not is_last:
        with contextlib.suppress(orjson.JSONEncodeError):  # half a character: Jupyter's way can write it
            return orjson.dumps(nb, option=orjson.OPT_INDENT_2).decode()
    from nbformat.v4 import writes

    return f"{writes(nb)}\n"


def text_of(value: Any) -> str:
    """Return a part of an output as text; Jupyter writes texts as lists of lines too."""
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
            if WIDGET_MIME not in data:
                continue
            words = text.one_line(" ".join(_words(data[WIDGET_MIME].get("model_id", ""), widgets)))
            if words and ("text/html" not in data or data.get("text/html") == _pre(data.get("text/plain", ""))):
                data["text/plain"], data["text/html"] = words, _pre(words)


def _pre(words: str) -> str:
    return f"<pre>{text.html(words)}</pre>"


def _words(model_id: str, widgets: dict[str, Any]) -> list[str]:
    """What a widget and its children say, depth first."""
    state = widgets.get(model_id, {})
    kind, value = str(state.get("_model_name", "")), state.get("value")
    words = [str(state["description"])] if state.get("description") else []
    if "Progress" in kind and value is not None:
        words.append(f"{value:g}/{state.get('max', 100):g}")
    elif isinstance(value, str) and value:
        words.append(html.unescape(re.sub(r"<[^>]+>", "", value)) if "HTML" in kind else value)
    elif isinstance(value, (bool, int, float)) and not isinstance(state.get("children"), list):
        words.append(str(value))
    children = [str(child).removeprefix("IPY_MODEL_") for child in state.get("children") or []]
    said = {child: _words(child, widgets) for child in children}
    bars = {child for child in children if "Progress" in str(widgets.get(child, {}).get("_model_name", ""))}
    is_told = any(said[child] for child in children if child not in bars)  # tqdm writes the count beside its bar
    return words + [word for child in children if not (is_told and child in bars) for word in said[child]]


def _overwritten(text: str) -> str:
    r"""What a terminal shows of text with carriage returns: each ``\r`` starts its line again (progress bars)."""
    if "\r" not in text:
        return text
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def trust(path: Path) -> None:
    """Sign an executed notebook for the user who ran it, so that JupyterLab shows its widgets and HTML."""
    import sqlite3

    from nbformat.sign import NotebookNotary
    from nbformat.v4 import reads

    with contextlib.suppress(sqlite3.Error, OSError, ValueError):  # an unsigned notebook is still whole
        NotebookNotary().sign(reads(path.read_text(encoding="utf-8")))
