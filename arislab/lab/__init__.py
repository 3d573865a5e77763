"""A lab of one's own: a folder with notebooks, tasks and data, and what a newer arislab changes in it.

The templates are the notebooks, tasks and samples of the installed arislab, and the files around them. A lab keeps each
as it was taken over (``.arislab/templates``), so that an edit of its own and a change that came with a newer arislab
are told apart. Nothing that people have is written over.
"""

from arislab.lab.states import Change, changes, init, update

__all__ = ["Change", "changes", "init", "update"]
