"""A log that a flood cannot fill."""

import logging
from pathlib import Path

import pytest

from arislab.server.quiet import RateLimit


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A logger with the filter, what it has written, and the filter's clock."""
    logger, handler = logging.getLogger("test.quiet"), logging.FileHandler(tmp_path / "log")
    now = [100.0]
    monkeypatch.setattr("arislab.server.quiet.time.monotonic", lambda: now[0])
    handler.addFilter(RateLimit(per_kind=5, per_logger=12, span_s=10))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger, lambda: Path(tmp_path / "log").read_text().splitlines(), now
    logger.removeHandler(handler)
    handler.close()


def test_a_flood_of_one_kind_leaves_a_few_lines_and_their_number(written):
    logger, lines, now = written
    for i in range(1000):
        logger.error("the disk is full: %d", i)
    assert lines() == [f"the disk is full: {i}" for i in range(5)]
    logger.warning("something else")
    assert lines()[-1] == "something else", "another kind has its own room"
    now[0] += 11
    logger.error("the disk is full: %d", 1000)
    assert lines()[-1] == "the disk is full: 1000 (and 995 like it were left out before)"


def test_a_flood_of_messages_that_are_all_different_has_an_end_too(written):
    logger, lines, _ = written
    for i in range(5000):
        logger.error(f"{i} is odd")
    assert len(lines()) == 12
    for i in range(60):
        logger.info("batch %d: completed", i)
    assert len(lines()) == 12 + 50, "what is no warning has ten times the room"
