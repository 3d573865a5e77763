"""An old name, and nothing else: notebooks of earlier versions say ``from arislab.prices import prices``."""

import warnings

from arislab.batch import prices as prices

warnings.warn("arislab.prices is part of arislab.batch now; import that instead", DeprecationWarning, stacklevel=2)
