"""Does a server answer with the model that was asked, also while it is asked for others?

Not every server does. vLLM 0.32 (CPU build) answered 13 of 13 requests for the base model with the adapter that was
asked beside it, and named the base model all the same. What shows it are frozen prompts, answered greedily: by each
model alone, one request after the other, twice, so that what one model leaves behind shows in the next; by one model as
many at once as later by all, which shows what batching alone changes; then by all models at once. An answer that turns
into another model's only then is a finding.

``examine`` says what to ask and judges the answers; it sends nothing (``mixing`` asks a server of the protocol, the
batch server its upstream). What cannot be seen: models that answer all prompts alike, requests of other users of a
server, a fault that comes later.
"""

from arislab.isolation.evidence import Answers, Cell, Wave, fisher
from arislab.isolation.prompts import PROMPTS, body, text_of
from arislab.isolation.verdict import VERDICTS, Isolation, from_dict
from arislab.isolation.waves import AT_ONCE, examine

__all__ = [
    "AT_ONCE",
    "PROMPTS",
    "VERDICTS",
    "Answers",
    "Cell",
    "Isolation",
    "Wave",
    "body",
    "examine",
    "fisher",
    "from_dict",
    "text_of",
]
