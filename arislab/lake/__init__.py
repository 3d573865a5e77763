"""The lake: Delta tables, what each holds, what was read and written, and whether it is whole.

It knows no phase, scorer or model.
"""

from arislab.lake.delta import Lake, Table
from arislab.system import frames

__all__ = ["Lake", "Table"]

frames.show_as_they_are()  # every notebook opens the lake, and shows what it read
