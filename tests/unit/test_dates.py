"""Dates as clients write them, and as columns keep them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmanager.jobs.export.dates import (
    DateFormat,
    check_timezone,
    detect,
    in_zone,
    iso_condition,
    iso_instant,
    iso_range,
    parse_moment,
    to_column,
)

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


@given(st.dates())
def test_both_layouts_name_the_same_day_and_the_last_day_of_the_calendar_has_an_end(day: date) -> None:
    months = ["", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    iso = parse_moment(day.isoformat())

    assert parse_moment(f"{day.year:04}-{months[day.month]}-{day.day:02}") == iso
    assert iso.at.date() == day
    assert iso.after() > iso.at


@given(st.text().filter(lambda text: not any(letter.isdecimal() for letter in text)))
def test_text_without_a_number_is_never_a_date(text: str) -> None:
    with pytest.raises(ValueError, match="must be a date"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("value", "date_format"),
    [
        ("2024-03-09 12:30:00", DateFormat.SPACE),
        ("2024-03-09", DateFormat.SPACE),
        ("2024-03-09T12:30", DateFormat.T),
        ("2024-03-09T12:30:00Z", DateFormat("%Y-%m-%dT%H:%M:%SZ")),
        (1709987400, DateFormat.UNIX),
        (1709987400.5, DateFormat.UNIX),
        (DAY, DateFormat.NATIVE),
        (DAY.date(), DateFormat.NATIVE),
    ],
)
def test_a_value_shows_how_its_column_keeps_dates(value: object, date_format: DateFormat) -> None:
    assert detect([value]) == date_format


@given(st.datetimes(), st.datetimes(), st.sampled_from(["microseconds", "seconds", "minutes"]))
def test_bounds_compare_with_the_texts_of_a_column_as_the_times_do(bound: datetime, at: datetime, spec: str) -> None:
    at = at.replace(microsecond=0) if spec == "seconds" else at
    at = at.replace(second=0, microsecond=0) if spec == "minutes" else at

    for date_format, separator in ((DateFormat.SPACE, " "), (DateFormat.T, "T")):
        text = at.isoformat(separator, spec)
        assert (str(to_column(bound, date_format)) <= text) == (bound <= at)


@given(st.datetimes(min_value=datetime(1, 1, 2)), st.integers(0, 4_000_000_000))
def test_bounds_compare_with_unix_seconds_as_the_times_do(bound: datetime, seconds: int) -> None:
    at = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    value = to_column(bound, DateFormat.UNIX)

    assert isinstance(value, (int, float))
    assert (value <= seconds) == (bound <= at)


@pytest.mark.parametrize(
    ("values", "date_format"),
    [
        (["2024-03-09T12:30", "2024-03-09", "2024-03-09T12:30:00.25"], "t"),
        (["", "2024-03-09T12:30"], "t"),
        (["2024-03-09T12:30:00", "2024-03-09 12:30:00"], "iso"),
        (["2024-03-09T12:30:00Z", "2024-03-09T12:30:00"], "iso"),
        (["2024-03-09T12:30:00Z", "2024-03-09T12:30:00.5Z"], "iso"),
        (["2024-03-09T12:30:00+02:00"], "iso"),
        (["2024-03-09T12:30:00.250Z"], "%Y-%m-%dT%H:%M:%S.%LZ"),
        (["2024-03-09 12:30:00.250000+00:00"], "%Y-%m-%d %H:%M:%S.%f+00:00"),
        (["20240309", "20241231"], "%Y%m%d"),
        ([1709987400, 0, 1709987400.5], "unix"),
        ([Decimal(1709987400)], "unix"),
        ([1709987400000], "unix_ms"),
        ([1709987400000000], "unix_us"),
        ([2460370.9, 2460371], "julian"),
        ([], "space"),
    ],
)
def test_a_format_is_detected_from_many_values(values: list[object], date_format: str) -> None:
    assert detect(values) == date_format


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([20240301, 20240302, 20240303, 20240304], '20240301, 20240302, 20240303. Set date_format = "yyyymmdd" if'),
        ([2024, 2023], 'possible meaning: 2024, 2023. Set date_format = "number %Y"'),
        ([3, 5], "Set date_format to unix, unix_ms"),
        ([1709987400, 1709987400000], "more than one possible meaning"),
        ([float("nan")], "more than one possible meaning"),
        (["2024"], 'set date_format = "%Y"'),
        (["2024/03/09", "2024/03/09 12:30"], 'set date_format = "%Y/%m/%d %H:%M:%S"'),
        (["09.03.2024", "3/9/2024"], "fit no known format, or not all fit one: '09.03.2024', '3/9/2024'"),
        (["1709987400"], "fit no known format"),
        (["2024-03-09", 1709987400], "fit no known format, or not all fit one"),
        (["2024-03-09", b"x"], "fit no known format, or not all fit one"),
        (["infinity"], "fit no known format"),
        (["20241301"], "fit no known format"),
        (["x" * 5000], "'" + "x" * 39 + "\\."),
        (["", ""], "only empty texts"),
    ],
)
def test_values_of_no_format_or_of_two_are_refused_and_shown(values: list[object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        detect(values)


@pytest.mark.parametrize(
    ("configured", "values", "found"),
    [
        ("yyyymmdd", [20240301], "number %Y%m%d"),
        ("yyyymmdd", [20240301.0], "number %Y%m%d"),
        ("yyyymmdd", ["20240301"], "%Y%m%d"),
        ("unix", [20240301], "unix"),
        ("number %Y", [2024], "number %Y"),
        ("%Y/%m/%d %H:%M", ["2024/03/09", "2024/03/09 12:30", "2024/03/09 12"], "%Y/%m/%d %H:%M"),
        ("t", ["2024-03-09T12:30"], "t"),
        ("space", ["2024-03-09T12:30", "2024-03-09 12:30"], "iso"),
        ("iso", ["2024-03-09"], "iso"),
    ],
)
def test_a_format_that_is_configured_is_checked_with_the_values(
    configured: str, values: list[object], found: str
) -> None:
    assert detect(values, DateFormat(configured)) == found


@pytest.mark.parametrize(
    ("configured", "values"),
    [
        ("yyyymmdd", ["2024-03-09"]),
        ("unix", ["1709987400"]),
        ("julian", ["2024-03-09"]),
        ("native", ["2024-03-09"]),
        ("iso", ["2024-03-09T12:30:00+0200"]),
        ("t", ["2024-03-09T12:30", "n/a"]),
        ("%Y", [2024]),
        ("%Y-%j", ["2024-367"]),
        ("%Y-%m-%dT%HZ", ["2024-03-09Z"]),
    ],
)
def test_a_format_that_does_not_fit_the_values_is_refused(configured: str, values: list[object]) -> None:
    with pytest.raises(ValueError, match=f"not fit date_format {configured}: {str(values[-1])!r}|not fit date_format "):
        detect(values, DateFormat(configured))


@pytest.mark.parametrize("text", ["%d.%m.%Y", "%Y-%d", "%y%m%d", "%Y%H", "%b %Y", "%", "%Y%", "%m", "%Y %Y"])
def test_a_pattern_that_does_not_sort_as_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not sort as time"):
        DateFormat(text)


_ENDS = [
    datetime.min,
    datetime(9999, 1, 1, 0, 0, 1),
    datetime(9999, 12, 31),
    datetime(9999, 12, 31, 23, 59, 59, 999999),
]
_MOMENTS = st.datetimes() | st.sampled_from(_ENDS)
_PATTERNS = ["%Y", "%Y/%m", "%Y%m%d", "%Y-%j", "%Y.%m.%d %Hh", "%Y%m%d%H%M%S", "%Y-%m-%dT%H:%M:%S.%fZ"]


@given(_MOMENTS, _MOMENTS, st.sampled_from(_PATTERNS))
def test_bounds_of_a_pattern_compare_with_its_texts_as_the_times_do(
    bound: datetime, at: datetime, pattern: str
) -> None:
    text = at.strftime(pattern).zfill(len(datetime.max.strftime(pattern)))
    first_moment = datetime.strptime(text, pattern)

    # The latest time that Python has stands for the end of the calendar: it is behind all values.
    is_within = first_moment >= bound and bound != datetime.max
    assert (text >= str(to_column(bound, DateFormat(pattern)))) == is_within
    if text.isdigit():
        assert (int(text) >= int(str(to_column(bound, DateFormat(f"number {pattern}"))))) == is_within


@pytest.mark.parametrize("date_format", ["space", "t", "unix", "unix_ms", "unix_us", "julian", "yyyymmdd"])
def test_the_end_of_the_calendar_is_beyond_its_last_moment(date_format: str) -> None:
    last = {"space": "9999-12-31 23:59:59.999999", "t": "9999-12-31T23:59:59.999999", "yyyymmdd": "99991231"}
    numbers = {
        "unix": 253402300799.99,
        "unix_ms": 253402300799999.9,
        "unix_us": 253402300799999999,
        "julian": 5373484.4,
    }

    bound = to_column(parse_moment("9999-12-31").after(), DateFormat(date_format))

    assert bound > (last | numbers)[date_format]  # type: ignore[operator]


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)))
def test_julian_days_are_those_of_sqlite(at: datetime) -> None:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)

    with closing(sqlite3.connect(":memory:")) as connection:
        (expected,) = connection.execute("SELECT julianday(?)", [at.isoformat(" ")]).fetchone()

    assert to_column(at, DateFormat.JULIAN) == expected


_ZONES = st.none() | st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_DAYS_APART = st.timedeltas(timedelta(days=-2), timedelta(days=2))


@settings(max_examples=300)
@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),
    _DAYS_APART | st.just(timedelta()),
    _DAYS_APART,
    _ZONES,
    st.sampled_from([(mark, spec) for mark in "T " for spec in ("minutes", "seconds", "milliseconds", "microseconds")]),
)
def test_iso_texts_are_compared_as_instants(
    at: datetime, to_begin: timedelta, to_end: timedelta, zone: timezone | None, form: tuple[str, str]
) -> None:
    text = at.replace(tzinfo=zone).isoformat(*form)
    written = datetime.fromisoformat(text)
    instant = written.astimezone(UTC).replace(tzinfo=None) if zone else written
    begin, end = instant + to_begin, instant + to_begin + abs(to_end)

    low, high = iso_range(begin, end)
    with closing(sqlite3.connect(":memory:")) as connection:
        (is_exact,) = connection.execute(
            f"SELECT {iso_condition('at', begin, end)} FROM (SELECT ? AS at)", [text]
        ).fetchone()

    assert bool(is_exact) == (begin <= instant < end)
    assert low <= text < high or not is_exact


@pytest.mark.parametrize(
    "value",
    [
        "now",
        "2460370.5",
        2460370.5,
        20240309,
        "2024-03",
        "2024-03-09T25:00",
        "x",
        b"2024-03-09",
        "2024-03-09T12:30+15:00",
    ],
)
def test_what_is_not_an_iso_text_is_no_instant(value: object) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute(f"SELECT {iso_instant('at')} FROM (SELECT ? AS at)", [value]).fetchone()

    assert found is None


def test_bounds_are_converted_to_the_zone_of_a_column_through_both_changes_of_its_clocks() -> None:
    berlin = "Europe/Berlin"

    assert in_zone(datetime(2024, 3, 31, 0, 59), berlin) == datetime(2024, 3, 31, 1, 59)
    assert in_zone(datetime(2024, 3, 31, 1, 0), berlin) == datetime(2024, 3, 31, 3, 0)
    # In October the clock shows this hour twice.
    assert in_zone(datetime(2024, 10, 27, 0, 30), berlin) == in_zone(datetime(2024, 10, 27, 1, 30), berlin)
    assert to_column(datetime(2024, 7, 1, 22), DateFormat.SPACE, berlin) == "2024-07-02"
    assert to_column(datetime(2024, 7, 1, 22), DateFormat.NATIVE, berlin) == datetime(2024, 7, 2)


def test_numbers_that_count_from_1970_have_no_zone() -> None:
    assert to_column(DAY, DateFormat.UNIX, "Europe/Berlin") == to_column(DAY, DateFormat.UNIX)


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo", "America/New_York"])
def test_the_ends_of_the_calendar_are_within_it_in_every_zone(zone: str | None) -> None:
    assert in_zone(datetime.max, zone) == datetime.max
    assert in_zone(datetime.min, zone) <= datetime.min + timedelta(days=1)
    assert in_zone(datetime.max - timedelta(hours=1), zone) <= datetime.max


@pytest.mark.parametrize("name", ["Mars", "", "../etc", "/etc/passwd", "x" * 5000])
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the timezone is not known"):
        check_timezone(name)


def test_iso_texts_are_not_compared_as_text() -> None:
    with pytest.raises(ValueError, match="date_format iso is supported for SQLite only"):
        to_column(DAY, DateFormat.ISO)
