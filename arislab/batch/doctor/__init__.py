"""Examine any server of the OpenAI Files + Batches protocol.

It says what holds, what deviates, and what the client does about it.

About 25 tiny requests in seven small batches, over raw HTTP as the openai SDK would send them, and once through the SDK
itself. Whether the client can read a line is asked of the client's own reader (``protocol.outcome``). This room does
not know ledgers or tasks.
"""

from arislab.batch.doctor.checks import CHECKS, COLUMNS
from arislab.batch.doctor.report import as_text, diagnose

__all__ = ["CHECKS", "COLUMNS", "as_text", "diagnose"]
