"""How long a server asks to wait, in whatever words."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FUZZ

from arislab.system.pause import MOST_S, retry_after_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("99999", MOST_S),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1e999", None),
        ("", None),
        ("soon", None),
        ("\xb2", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MOST_S),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 -99999999", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_a_server_may_ask_for_a_pause_in_any_words(header, seconds):
    assert retry_after_s(header) == seconds


def test_a_date_is_read_as_the_seconds_until_then():
    now = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s(format_datetime(now + timedelta(seconds=9), usegmt=True), now=now.timestamp()) == 9.0


@settings(max_examples=FUZZ, deadline=None)
@given(
    st.text()
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes(timezones=st.just(UTC)).map(format_datetime)
)
def test_no_header_of_a_server_can_do_harm(header):
    seconds = retry_after_s(header)
    assert seconds is None or 0 <= seconds <= MOST_S
