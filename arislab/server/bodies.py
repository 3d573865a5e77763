"""Bodies of requests, with every number as it came: orjson is fast, and makes floats of integers beyond 64 bits.

This module does not know what a body may hold (limits does).
"""

import json
from typing import Any

import orjson


def loads(data: bytes) -> Any:
    """Return a JSON value with exact integers.

    Raises:
        orjson.JSONDecodeError: It is no JSON.
    """
    value = orjson.loads(data)
    try:
        return json.loads(data) if _may_be_rounded(value) else value
    except RecursionError:
        return value  # nested deeper than any line may be


def dumps(value: Any) -> bytes:
    """Return the JSON of a value of ``loads``."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return json.dumps(value, separators=(",", ":")).encode()


def _may_be_rounded(value: Any) -> bool:
    open_ = [value]
    while open_:
        one = open_.pop()
        if isinstance(one, float):
            if abs(one) >= 2**63:
                return True
        elif isinstance(one, dict):
            open_.extend(one.values())
        elif isinstance(one, list):
            open_.extend(one)
    return False
