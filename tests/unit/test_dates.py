"""Dates as clients write them, and as columns keep them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmanager.jobs.dates import DateFormat, format_of, parse_moment, to_column

DAY = datetime(2024, 3, 9)


@pytest.mark.parametrize("text", ["2024-03-09", "2024-Mar-09", "2024-mar-09", "2024-MAR-09", "20240309", "2024-W10-6"])
def test_a_bare_date_names_the_whole_day_in_every_layout(text: str) -> None:
    moment = parse_moment(text)

    assert (moment.at, moment.after()) == (DAY, DAY + timedelta(days=1))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2024-03-09T12:30:00", datetime(2024, 3, 9, 12, 30)),
        ("2024-03-09 12:30", datetime(2024, 3, 9, 12, 30)),
        ("2024-03-09T00:00:00", DAY),
        ("2024-03-09T12:30:00.25", datetime(2024, 3, 9, 12, 30, 0, 250_000)),
        ("2024-03-09T12:30:00Z", datetime(2024, 3, 9, 12, 30)),
        ("2024-03-09T00:30:00+02:00", datetime(2024, 3, 8, 22, 30)),
        ("2024-12-31T23:30:00-01:00", datetime(2025, 1, 1, 0, 30)),
    ],
)
def test_a_time_is_exclusive_and_in_utc(text: str, at: datetime) -> None:
    moment = parse_moment(text)

    assert (moment.at, moment.after()) == (at, at)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "yesterday", "2024-02-30", "2023-02-29", "2024-13-01", "2024-00-01", "2024-Foo-09", "2024-Mar-9",
        "2024-Mar-32", "2024-Mar-09T10:00", "24-Mar-09", "09.03.2024", "2024-3-9", "2024-03-09T25:00", "٢٠٢٤-Mar-09",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2024-03-09; DROP TABLE",
        "10000-01-01", "2024-Mar--9",
    ],
)  # fmt: skip
def test_what_is_no_date_is_refused_with_examples_of_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="must be a date, as in 2024-03-09, 2024-Mar-09 or 2024-03-09T12:30:00"):
        parse_moment(text)


@settings(deadline=None)
@given(st.dates())
def test_both_layouts_name_the_same_day_and_the_last_day_of_the_calendar_has_an_end(day: date) -> None:
    months = ["", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    iso = parse_moment(day.isoformat())

    assert parse_moment(f"{day.year:04}-{months[day.month]}-{day.day:02}") == iso
    assert iso.at.date() == day
    assert iso.after() > iso.at


@settings(deadline=None)
@given(st.text().filter(lambda text: not any(letter.isdecimal() for letter in text)))
def test_text_without_a_number_is_never_a_date(text: str) -> None:
    with pytest.raises(ValueError, match="must be a date"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("value", "date_format"),
    [
        ("2024-03-09 12:30:00", DateFormat.SPACE),
        ("2024-03-09", DateFormat.SPACE),
        ("2024-03-09T12:30:00Z", DateFormat.T),
        (1709987400, DateFormat.UNIX),
        (1709987400.5, DateFormat.UNIX),
        (DAY, DateFormat.NATIVE),
        (DAY.date(), DateFormat.NATIVE),
    ],
)
def test_a_value_shows_how_its_column_keeps_dates(value: object, date_format: DateFormat) -> None:
    assert format_of(value) is date_format


@settings(deadline=None)
@given(st.datetimes(), st.datetimes(), st.sampled_from(["microseconds", "seconds", "minutes"]))
def test_bounds_compare_with_the_texts_of_a_column_as_the_times_do(bound: datetime, at: datetime, spec: str) -> None:
    at = at.replace(microsecond=0) if spec == "seconds" else at
    at = at.replace(second=0, microsecond=0) if spec == "minutes" else at

    for date_format, separator in ((DateFormat.SPACE, " "), (DateFormat.T, "T")):
        text = at.isoformat(separator, spec)
        assert (str(to_column(bound, date_format)) <= text) == (bound <= at)


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1, 1, 2)), st.integers(0, 4_000_000_000))
def test_bounds_compare_with_unix_seconds_as_the_times_do(bound: datetime, seconds: int) -> None:
    at = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    value = to_column(bound, DateFormat.UNIX)

    assert isinstance(value, (int, float))
    assert (value <= seconds) == (bound <= at)
