"""Columns of times, said to be in a unit, by a pattern, or found."""

import datetime
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs.columns import times as times_lib
from calrec_jax.data.logs.columns.id_codes import Column
from calrec_jax.data.logs.columns.times import TimeReader, timestamps

# 2020-09-14 05:18:46.
TIME = 1_600_060_726_000
MIDNIGHT = TIME - TIME % 86_400_000
UTC = datetime.UTC


def read(*blocks, **settings):
  reader = TimeReader(**settings)
  for block in blocks:
    reader.add(block)
  return reader.finish()


def remedies(times):
  return [(note.severity, note.remedy) for note in times.notes]


@pytest.mark.parametrize(
  ("unit", "values", "expected"),
  [
    ("s", ["1503273600", 1503273600, "1503273600.25"], [0, 0, 250]),
    ("ms", ["1503273600000", 1503273600001], [0, 1]),
    ("iso", ["2017-08-21", "2017-08-21T00:00:00.500Z"], [0, 500]),
  ],
)
def test_times_are_milliseconds(unit, values, expected):
  times, readable = timestamps(values, unit)
  assert readable.all()
  assert (times - 1_503_273_600_000).tolist() == expected


def test_fractions_are_rounded_alike_in_any_block():
  text = "4254-01-01 00:00:00.001481"
  alone, _ = timestamps([text], "iso")
  beside, _ = timestamps(Column(pa.array(["0", text])), "iso")
  assert beside[1] == alone[0]


@pytest.mark.parametrize("unit", ["s", "ms", "order", "iso"])
@given(
  st.lists(
    st.text("0123456789.eE+-_ \tnaifx", max_size=6)
    | st.integers(-(2**60), 2**60).map(str)
    | st.floats().map(repr)
    | st.datetimes().map(str),
    max_size=8,
  )
)
def test_times_in_arrow_are_those_of_python(unit, values):
  column = Column(pa.array(values, pa.large_string()))
  expected = [timestamps([value], unit) for value in values]
  times, readable = timestamps(column, unit)
  assert times.tolist() == [int(time[0]) for time, _ in expected]
  assert readable.tolist() == [bool(good[0]) for _, good in expected]


def test_milliseconds_given_as_seconds_are_not_believed():
  assert not timestamps([1_503_273_600_000], "s")[1].any()


def test_positions_are_whole_numbers():
  times, readable = timestamps(["1", 2, "2.5", None, True, "x"], "order")
  assert readable.tolist() == [True, True, False, False, False, False]
  assert times[:2].tolist() == [1, 2]


@given(
  st.lists(
    st.datetimes(
      datetime.datetime(1, 1, 3),
      datetime.datetime(2255, 1, 1),
      timezones=st.none()
      | st.integers(-1439, 1439).map(
        lambda m: datetime.timezone(datetime.timedelta(minutes=m))
      ),
    ),
    min_size=1,
    max_size=5,
  ),
  st.sampled_from(["T", " "]),
)
def test_iso_times_are_those_of_python(moments, separator):
  texts = [moment.isoformat(separator) for moment in moments]
  expected = [round(events_lib.milliseconds(text)) for text in texts]
  for unit in ("iso", None):
    times, readable = read(texts, unit=unit)[:2]
    assert readable.all()
    # Halves of a millisecond may go either way.
    assert np.abs(times - np.array(expected)).max() <= 1
    whole = [m.microsecond % 1000 == 0 for m in moments]
    assert times[whole].tolist() == np.array(expected)[whole].tolist()


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("2020-09-14 05:18:46", TIME),
    ("2020-09-14T05:18:46Z", TIME),
    ("2020-09-14T05:18:46.5Z", TIME + 500),
    ("2020-09-14T05:18:46.123456789Z", TIME + 123),
    ("2020-09-14T07:18:46+02:00", TIME),
    ("2020-09-14 01:18:46 -0400", TIME),
    ("2020-09-14 05:18:46 UTC", TIME),
    ("2020-09-14 05:18:46.250 UTC", TIME + 250),
    ("2020-09-14", MIDNIGHT),
    ("2020/09/14 05:18:46", TIME),
    ("2020-9-14 5:18:46", TIME),
    ("20200914T051846Z", TIME),
    ("20200914 05:18:46", TIME),
    ("14.09.2020 05:18:46", TIME),
    ("14.9.2020, 5:18:46", TIME),
    ("14/09/2020 05:18:46", TIME),
    ("14-09-20 05:18:46", TIME),
    ("09/14/2020 05:18:46 AM", TIME),
    ("9/14/20 5:18:46\u202fAM", TIME),
    ("9/14/2020, 5:18:46 PM", TIME + 12 * 3_600_000),
    ("09/14/2020 12:18:46 AM", TIME - 5 * 3_600_000),
    ("Sun Sep 13 22:18:46 -0700 2020", TIME),
    ("Mon Sep 14 05:18:46 2020", TIME),
    ("Mon Sep 14 05:18:46 UTC 2020", TIME),
    ("Mon, 14 Sep 2020 05:18:46 GMT", TIME),
    ("Mon, 14 Sep 2020 01:18:46 EDT", TIME),
    ("Mon Sep 14 2020 07:18:46 GMT+0200 (CEST)", TIME),
    ("14/Sep/2020:05:18:46 +0000", TIME),
    ("Sep 14, 2020", MIDNIGHT),
    ("September 14th, 2020 5:18:46 AM", TIME),
    ("14-Sep-2020", MIDNIGHT),
    ("14-SEP-20", MIDNIGHT),
    ("14 September 2020 05:18:46", TIME),
    ("1600060726", TIME),
    ("1600060726.5", TIME + 500),
    ("1600060726000", TIME),
    ("1600060726000000", TIME),
    ("1600060726000000000", TIME),
    ("20200914", MIDNIGHT),
    ("202009140518", TIME - 46_000),
    ("20200914051846", TIME),
    ("44088", MIDNIGHT),
    ("44088.25", MIDNIGHT + 6 * 3_600_000),
    ('{"$date": "2020-09-14T05:18:46Z"}', TIME),
    ('{"$date": 1600060726000}', TIME),
    ('{"$date":{"$numberLong":"1600060726000"}}', TIME),
    ('{"$numberLong": "1600060726000"}', TIME),
    ('ISODate("2020-09-14T05:18:46.000Z")', TIME),
    ("/Date(1600060726000)/", TIME),
    ("/Date(1600060726000+0200)/", TIME),
  ],
)
def test_ways_that_are_found(text, expected):
  for values in (
    [text],
    [f" {text} ", "", None],
    pa.array([text]).cast("binary"),
  ):
    found = read(values)
    assert found.readable[0]
    assert found.values[0] == expected
    assert found.by_time
    assert not found.readable[1:].any()


@pytest.mark.parametrize(
  "text",
  [
    *("2020-02-30", "31.04.2020", "13/13/2020", "2020-09-14 25:00", "Tea"),
    *("2020-09-14 05:61", "05:18:46", "14:30 PM 2020", "x" * 1000, "-", "é"),
    *("2020-09-14 05:18:46 XYZ", "Foo 14, 2020", "{", "ISODate()", "1.2.3.4"),
  ],
)
def test_what_is_no_time(text):
  found = read([text])
  assert not found.readable.any()
  assert found.notes[0].severity == "wrong"
  assert text[:80] in found.notes[0].message


PATTERNS = (
  *("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S UTC"),
  *("%Y/%m/%d %H:%M:%S", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%SZ"),
  *("%d.%m.%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%d-%m-%Y %H:%M:%S"),
  *("%d.%m.%y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%y %I:%M:%S %p"),
  *("%a %b %d %H:%M:%S +0000 %Y", "%a, %d %b %Y %H:%M:%S GMT", "%c"),
  *("%b %d, %Y %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%d %B %Y %H:%M:%S"),
  *("%A, %B %d, %Y %I:%M:%S %p", "%d/%b/%Y:%H:%M:%S +0000"),
)
MOMENTS = st.datetimes(
  datetime.datetime(1990, 1, 2), datetime.datetime(2026, 1, 1)
).map(lambda moment: moment.replace(microsecond=0, tzinfo=UTC))


@pytest.mark.parametrize("pattern", PATTERNS)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=6))
def test_patterns_are_read_back(pattern, moments):
  # A day after the twelfth tells the order.
  moments = [*moments, datetime.datetime(2020, 9, 14, 5, 18, 46, tzinfo=UTC)]
  texts = [moment.strftime(pattern) for moment in moments]
  expected = [round(moment.timestamp() * 1000) for moment in moments]
  found = read(texts)
  assert found.readable.all()
  if "%y" not in pattern:  # `14.09.20` may begin with the year.
    assert found.values.tolist() == expected
    assert not [n for n in found.notes if "order" in n.message]
  named = read(texts, pattern=pattern)
  assert named.readable.all()
  assert named.values.tolist() == expected


@pytest.mark.parametrize(
  "pattern",
  [
    *("%Y-%m-%d %H:%M:%S.%f", "%d.%m.%Y %H:%M", "%Y%m%d", "%d %b %y"),
    *("%Y-%j", "Week %W day %w of %Y", "%d.%m.%Y %H Uhr %M", "%Y-%m"),
    *("%D %T", "%F %R", "%I:%M %p %d/%m/%Y", "%d%m%Y", "%H:%M:%S %d.%m.%Y"),
    *("%Y-%m-%d %I:%M", "100%% %Y-%m-%d", "%Y-%m-%d %z"),
  ],
)
@given(moment=MOMENTS)
def test_patterns_mean_what_strptime_says(pattern, moment):
  text = moment.strftime(pattern)
  expected = datetime.datetime.strptime(text, written_out(pattern))
  expected = expected.replace(tzinfo=expected.tzinfo or UTC)
  found = read([text, "no time", None], pattern=pattern)
  assert found.readable.tolist() == [True, False, False]
  assert found.values[0] == round(expected.timestamp() * 1000)


def written_out(pattern):
  for short, long in (("%D", "%m/%d/%y"), ("%T", "%H:%M:%S")):
    pattern = pattern.replace(short, long)
  return pattern.replace("%F", "%Y-%m-%d").replace("%R", "%H:%M")


@pytest.mark.parametrize(
  "settings",
  [
    {"pattern": "%d.%m. %H:%M"},
    {"pattern": "%Q"},
    {"pattern": "first"},
    {"pattern": "%Y-%m-%d %Y"},
    {"unit": "seconds"},
  ],
)
def test_settings_that_mean_nothing_are_refused(settings):
  with pytest.raises(ValueError, match=r"LogFiles\.time_"):
    TimeReader(**settings)


def test_whole_columns_decide():
  first = ["01/02/2020"] * 3
  assert read(first, ["13/02/2020"]).values[0] == read(["2020-02-01"]).values
  assert read(first, ["02/13/2020"]).values[0] == read(["2020-01-02"]).values
  found = read(["13/02/2020"] * 2000, ["01/13/2020", "x"], ["01/02/2020"] * 9)
  assert found.readable.sum() == 2009
  assert found.values[-1] == read(["2020-02-01"]).values


def test_an_unclear_order_is_said():
  found = read(["01/02/2020", "03/04/2020"])
  assert ("suspect", 'LogFiles.time_format = "month-first"') in remedies(found)
  assert "'01/02/2020'" in found.notes[0].message
  assert not read(["01/02/2020"] * 2, pattern="month-first").notes[1:]
  noon = read(["01/02/2020 5:00 PM", "03/04/2020 6:00 PM"])
  assert noon.binding == 'LogFiles.time_format = "month-first"'
  assert not read(["02/02/2020", "3/3/2020"]).notes
  assert not read(["01.02.2020", "02.03.2020"]).notes


@pytest.mark.parametrize("order", times_lib.FORMATS)
def test_an_order_can_be_named(order):
  days = {"day-first": "05/04/20", "month-first": "04/05/20"}
  found = read([days.get(order, "20/04/05")], pattern=order)
  assert found.values.tolist() == [1_586_044_800_000]
  assert found.binding == f'LogFiles.time_format = "{order}"'


@pytest.mark.parametrize(
  "column",
  [
    pa.array([TIME], pa.timestamp("ms")),
    pa.array([TIME * 1000], pa.timestamp("us", "Europe/Berlin")),
    pa.array([TIME * 10**6], pa.timestamp("ns")),
    pa.array([TIME // 1000], pa.timestamp("s")),
    pa.array([{"$date": "2020-09-14T05:18:46Z"}]),
    pa.array([{"$date": TIME}]),
    pa.array([{"$date": float(TIME)}]),
    pa.array([{"$date": {"$numberLong": str(TIME)}}]),
    pa.array([{"$date": str(TIME)}]),
    pa.array([{"$numberLong": str(TIME)}]),
    pa.array([TIME // 1000]),
    pa.array([TIME // 1000]).cast(pa.decimal128(30, 2)),
    pa.array([float(TIME)]),
    pa.array([TIME]).dictionary_encode(),
    pa.array(["2020-09-14 05:18:46"], pa.string_view()),
    pa.chunked_array([["2020-09-14 05:18:46"]]),
    Column(pa.array(["2020-09-14 05:18:46"])),
    [datetime.datetime(2020, 9, 14, 5, 18, 46)],
  ],
)
def test_every_type(column):
  found = read(column, pa.array([None], pa.string()))
  assert found.values.tolist() == [TIME, 0]
  assert found.readable.tolist() == [True, False]


def test_types_of_times_need_no_unit():
  column = pa.array([TIME, None], pa.timestamp("ms"))
  for unit in times_lib.UNITS:
    found = read(column, unit=unit)
    assert found.values.tolist() == [TIME, 0]
    assert found.by_time
  day = pa.array([18_519], pa.date32())
  assert read(day).values.tolist() == [MIDNIGHT]
  assert read(day.cast(pa.date64())).values.tolist() == [MIDNIGHT]


@pytest.mark.parametrize(
  "column",
  [
    *(pa.array([1], pa.time32("s")), pa.array([True]), pa.array([[1]])),
    *(pa.nulls(1), pa.array([{"a": 1}]), pa.array([b"\xff"])),
  ],
)
@pytest.mark.parametrize("unit", [None, *times_lib.UNITS])
def test_types_without_times(column, unit):
  assert not read(column, unit=unit).readable.any()


@pytest.mark.parametrize(
  ("unit", "better", "value"),
  [
    ("ms", "s", TIME // 1000),
    ("s", "ms", TIME),
    ("us", "ms", TIME),
    ("ms", "us", TIME * 1000),
    ("ms", "ns", TIME * 10**6),
    ("s", "date", 20_200_914),
    ("s", "excel", 44_088),
  ],
)
def test_a_wrong_unit_is_said(unit, better, value):
  values = (
    [value, value + 3] if value < 10**9 else [value, value + value // 999]
  )
  found = read(values, unit=unit)
  assert remedies(found) == [("wrong", f'LogFiles.time_unit = "{better}"')]
  assert not read(values, unit=better).notes


def test_positions():
  found = read([1, 2, 3])
  assert found.values.tolist() == [1, 2, 3]
  assert not found.by_time
  assert found.binding == 'LogFiles.time_unit = "order"'
  assert remedies(found)[0][0] == "suspect"
  assert not read([1, 2, 3, "x"], unit="order").notes


def test_a_time_of_texts_in_the_wrong_unit_names_what_reads_it():
  for unit in ("iso", "s"):
    found = read(["14.09.2020 05:18"] * 3, unit=unit)
    assert not found.readable.any()
    assert remedies(found) == [("wrong", 'LogFiles.time_format = "day-first"')]


def test_odd_times_are_said():
  texts = ["2020-09-14", "2020-09-15"]
  assert not read(texts).notes
  later = datetime.datetime.fromtimestamp(time.time() + 3 * 86_400, UTC)
  late = read([*texts, later.isoformat()]).notes
  assert [n.message.split(",")[0] for n in late] == [
    "1 of 3 times lie after today"
  ]
  early = read([*texts, "1900-01-01"]).notes
  assert "1 of 3 times lie before 1990" in early[0].message
  assert "all times are the same" in read(texts[:1] * 2).notes[0].message
  seventy = read([1, 2, 3], unit="s")
  assert remedies(seventy) == [("wrong", 'LogFiles.time_unit = "order"')]
  excel = read([44_088.5, 44_090])
  assert remedies(excel) == [("suspect", 'LogFiles.time_unit = "order"')]


def test_unreadable_times_are_said_with_an_example():
  values = ["2020-09-14", "2020-09-15"] * 50
  assert not read(values, ["x"]).notes
  note = read(values, ["", "NULL"], ["soon"], missing=["NULL"]).notes[0]
  assert "3 of 103 times" in note.message
  assert "2 of them are empty" in note.message
  assert "'soon'" in note.message


def test_half_of_a_column_of_blanks():
  found = read([value for i in range(50) for value in (TIME // 1000 + i, None)])
  assert found.readable.sum() == 50
  assert found.values[-2] == TIME + 49_000


def test_no_blocks_are_no_times():
  found = TimeReader().finish()
  assert len(found.values) == len(found.readable) == 0
  assert not found.notes
  assert len(read([]).values) == 0


@given(
  st.lists(
    st.sampled_from(
      ["2020-09-14", "2020-09-14T05:00Z", "13.01.2020", "x", "", "Sep 14, 2020"]
    )
    | st.none(),
    max_size=12,
  ),
  st.integers(1, 5),
)
def test_blocks_are_read_as_the_whole(values, size):
  whole = read(pa.array(values, pa.string()))
  parts = [values[i : i + size] for i in range(0, len(values), size)]
  found = read(*(pa.array(part, pa.large_string()) for part in parts))
  assert found.values.tolist() == whole.values.tolist()
  assert found.readable.tolist() == whole.readable.tolist()


@given(st.text(max_size=20) | st.text("0123456789-/:. TZAPM+", max_size=24))
def test_any_text_is_read_or_not(text):
  for unit in (None, *times_lib.UNITS):
    found = read([text], unit=unit)
    assert len(found.values) == 1
    if not found.readable[0]:
      assert found.values[0] == 0


def test_many_odd_texts_do_not_hide_the_others():
  odd = [f"{i}{'.' * (i % 40)}{'-' * (i % 37)}" for i in range(9000)]
  found = read([*odd, *["14.09.2020"] * 9000], pattern="day-first")
  assert found.readable[9000:].all()
