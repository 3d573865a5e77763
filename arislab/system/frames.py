"""polars' own tables in the cells of a notebook: their texts are shown as they are.

polars escapes what would be HTML, but Jupyter typesets what stands between two dollar signs in any HTML that a cell
shows: of "$5 … $9" in a column of answers it makes a formula. This module imports neither polars nor IPython.
"""

import sys
from typing import Any

from arislab.system.text import AS_IS

_TYPES = (("polars.dataframe.frame", "DataFrame"), ("polars.series.series", "Series"))


def show_as_they_are() -> None:
    """Let the notebook that this process is a kernel of, if any, show frames without reading formulas in them."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    if shell := get_ipython():
        for module, name in _TYPES:
            shell.display_formatter.formatters["text/html"].for_type_by_name(module, name, _html)


def _html(frame: Any) -> str:
    return f"<div {AS_IS}>{frame._repr_html_()}</div>"
