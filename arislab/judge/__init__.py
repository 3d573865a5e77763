"""A model that judges answers: one criterion a request, the same batch path as phase 1, every answer kept.

In the order of judge.ipynb: ``asking`` (what there is to judge), ``prompts`` (what it is asked), ``reading`` (what it
said, read strictly), ``orders`` (how far it agrees with itself), ``signals`` (its scores as columns for 2_curate).

It knows no server, and not what people think: whether a judge is worth listening to is for their labels to say.
"""

from arislab.judge.asking import draw, items, outputs, requests
from arislab.judge.orders import both_orders, consistency
from arislab.judge.prompts import messages
from arislab.judge.reading import asked, judgements, worth_sending
from arislab.judge.signals import COLUMNS, Judge, current, heard_in

__all__ = [
    "COLUMNS",
    "Judge",
    "asked",
    "both_orders",
    "consistency",
    "current",
    "draw",
    "heard_in",
    "items",
    "judgements",
    "messages",
    "outputs",
    "requests",
    "worth_sending",
]
