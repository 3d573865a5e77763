"""Model versions: registered when trained, judged by a gate, promoted, deployed, rolled back, retired.

One event, a row of the table of events, which is only ever added to::

    event_id='alias/candidate-evaluation-curated-1f…/evaluate-20261128T…/0' event='alias' alias='champion'
    version='candidate-evaluation-curated-1f0c…' previous='candidate-evaluation-curated-8…' actor='ada' reason='…'

A version is an immutable folder of ``data/models``, named by its weights' digest. An alias is what the newest event of
that alias says, so there is one champion at any time; who promotes a second one at once is refused and told. What is
served where stands in a table of its own: it follows the registry when ``deploy.ipynb`` has seen that it answers right.
"""

from arislab.models.beside import checks
from arislab.models.earlier import promote, register
from arislab.models.events import CHAMPION, alias_of, named, registered, states, with_older
from arislab.models.gating import gate
from arislab.models.registry import Registry
from arislab.models.serving import serve_command

__all__ = [
    "CHAMPION",
    "Registry",
    "alias_of",
    "checks",
    "gate",
    "named",
    "promote",
    "register",
    "registered",
    "serve_command",
    "states",
    "with_older",
]
