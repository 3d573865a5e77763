"""Bodies of requests, with every number as it came (``json_text.loads_whole`` reads them).

Orjson refuses integers beyond 64 bits.

This module does not know what a body may hold (limits does).
"""

import json
from typing import Any

import orjson


def dumps(value: Any) -> bytes:
    """Return the JSON of a value of ``json_text.loads_whole``."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return json.dumps(value, separators=(",", ":")).encode()
