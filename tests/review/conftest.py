"""A panel, and where its decisions go."""

import pytest
from toys import Log, curated_rows

from arislab import review


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def panel(log):
    return review.Panel(curated_rows(3), reviewer="Ada", decide=log, backend="buttons")
