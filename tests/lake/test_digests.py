"""What two equal frames have in common."""

import polars as pl
from toys import people

from arislab.lake.digests import digest


def test_the_digest_knows_content_and_nothing_else(lake):
    one = people(3)
    assert digest("candidates", one) == digest("candidates", one.reverse().select(reversed(one.columns)))
    assert digest("candidates", one) != digest("candidates", one.with_columns(title=pl.lit("x")))
    assert digest("candidates", one) == digest("candidates", one.with_columns(title=pl.lit(None), run_id=pl.lit("r")))
