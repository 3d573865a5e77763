"""The lake: Delta tables, what each holds, what was read and written, and whether it is whole.

It knows no phase, scorer or model.
"""

from arislab.lake.delta import Lake, Table

__all__ = ["Lake", "Table"]
