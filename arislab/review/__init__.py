"""What people decide about answers: the panel in which they do, and what their decisions come to.

It does not know where they are kept.
"""

from arislab.review.decisions import fold, live, progress
from arislab.review.desk import Desk, QueueDesk
from arislab.review.journal import Journal
from arislab.review.panel import Panel
from arislab.review.sampling import picked, queue
from arislab.review.table import Table

__all__ = ["Desk", "Journal", "Panel", "QueueDesk", "Table", "fold", "live", "picked", "progress", "queue"]
