"""``python -m arislab`` is the ``arislab`` command."""

from arislab.cli import main

main()
