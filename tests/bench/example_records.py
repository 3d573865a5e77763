"""Make papermill_runs/example anew: the five records of a demo, without what belongs to the machine it ran on.

    arislab demo --root DIR && python tests/bench/example_records.py DIR
    arislab demo --model smollm2 --seeds 3 --root DIR && python tests/bench/example_records.py DIR example-real

Of several seeds the first one's five stand there, and of each other its evaluation, without pictures, in a folder of
its own. Of each run its executed notebook and run.json stay, pictures in 24 colours and tables as HTML alone, without
styles. The machine's name, absolute paths and widget state go, and the digests are those of what is left. ``demo.png``,
which the README shows, is the plot of arms in phase 5.
"""

import base64
import io
import json
import re
import sys
from pathlib import Path

from PIL import Image

from arislab import runs
from arislab.records import digests
from arislab.records import find as records
from arislab.records.record import record_sha256

_PLAIN = re.compile(r' style="[^"]*"|<wbr>')
"""What a table takes beside its values, a multiple of them: how each cell is set."""
RECORDS = Path(__file__).resolve().parents[2] / "papermill_runs"


def without_places(text: str, run: dict, above: Path) -> str:
    """A text with paths as they are seen from the checkout, and without the machine's name."""
    host = run["environment"]["hostname"]
    for place in sorted((run["root"], run["code"]["checkout"], str(above)), key=len, reverse=True):
        text = text.replace(f"{place}/", "").replace(place, ".")
    return text.replace(f'"hostname": "{host}"', '"hostname": "example"')


def in_few_colours(picture: str) -> str:
    """A PNG in base64, with a palette in the place of four bytes a dot."""
    small = io.BytesIO()
    whole = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    whole.quantize(24, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode() + "\n"


def keep(run: dict, target: Path, above: Path, *, pictures: bool = True) -> dict:
    """Write the notebook and run.json of a record to a folder, and return that notebook."""
    source = Path(run["folder"])
    notebook = json.loads((source / "notebook.ipynb").read_text(encoding="utf-8"))
    notebook["metadata"].pop("widgets", None)
    for data in [o.get("data", {}) for cell in notebook["cells"] for o in cell.get("outputs", ())]:
        picture = data.pop("image/png", None)
        if picture and pictures:
            data["image/png"] = in_few_colours(picture)
        if "text/html" in data:
            data.pop("text/plain", None)
            data["text/html"] = _PLAIN.sub("", "".join(data["text/html"]))
    # a line for each line of a cell, and no blanks before it: they would be a twentieth of all that is kept
    text = json.dumps(notebook, indent=0, separators=(",", ":"), ensure_ascii=False)
    text = without_places(text, run, above)
    target.mkdir(parents=True, exist_ok=True)
    (target / "notebook.ipynb").write_text(text + "\n", encoding="utf-8")
    record = json.loads(without_places((source / "run.json").read_text(encoding="utf-8"), run, above))
    record["files"] = {"notebook.ipynb": digests.of_file(target / "notebook.ipynb")}
    record["record_sha256"] = record_sha256(record)
    text = json.dumps(record, indent=0, separators=(",", ":"), ensure_ascii=False)
    (target / "run.json").write_text(text + "\n", encoding="utf-8")
    return notebook


def main(root: Path, name: str) -> None:
    first, *others = sorted(root.glob("seed-*")) or [root]
    for phase in runs.PHASES:
        notebook = keep(records.find(first, phase), RECORDS / name / phase, root)
    (cell,) = [cell for cell in notebook["cells"] if cell["id"] == "means"]
    (picture,) = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
    (RECORDS / name / "demo.png").write_bytes(base64.b64decode(picture))
    for other in others:
        if evaluations := [run for run in records.as_json(other) if run["phase"] == "evaluate"]:
            keep(
                records.find(other, evaluations[0]["run_id"]),
                RECORDS / name / other.name / "evaluate",
                root,
                pictures=False,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *(sys.argv[2:] or ["example"]))
