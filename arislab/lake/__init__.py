"""The lake: Delta tables, what each holds, what was read and written, and whether it is whole.

``tables`` says what each column means, and ``contract`` holds a frame to it; ``delta`` has the lake and its tables, on
top of ``opening``, ``writing``, ``turns`` and ``storage``. ``lineage`` tells the life of a row, ``log`` and ``digests``
what a run record keeps, ``check`` what is damaged.

It knows no phase, scorer or model.
"""

from arislab.lake.delta import Lake, Table
from arislab.system import frames

__all__ = ["Lake", "Table"]

frames.show_in_house_style()  # every notebook opens the lake, and shows what it read
