"""Statements of others: what becomes a trade, and what is said about a row or a file that cannot."""

from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_engine.reconciling import Listed, Match
from challenge_rules.money import MAX_AMOUNT, UNITS_PER_WHOLE, format_amount
from challenge_rules.timestamps import from_iso, to_iso
from challenge_server.statement_cells import (
    MAX_SHOWN,
    moments_in,
    read_amount,
    read_challenge_id,
    read_iso,
    shown,
    zone_of,
)
from challenge_server.statement_file import MAX_BAD_ROWS, Fault, Layout, Statement, StatementError, read_statement
from tests.engine.harness import NOON, SECOND

ONE = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"
OTHER = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e70"
ISO = moments_in("iso", UTC)
PLAIN = Layout(ISO)
HEADER = "challenge_id,trade_id,executed_at,realized_pnl,symbol\n"

Read = Callable[..., Statement]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def written_and_read(text: str | bytes, layout: Layout = PLAIN) -> Statement:
        path = tmp_path / "statement.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_statement(path, layout)

    return written_and_read


def complaint(read: Read, text: str | bytes, layout: Layout = PLAIN) -> str:
    with pytest.raises(StatementError) as caught:
        read(text, layout)
    return str(caught.value)


def test_rows_become_trades_by_challenge_in_the_order_of_the_file(read: Read):
    statement = read(
        HEADER
        + f"{ONE},t1,2025-01-02T12:00:00Z,1.5,EURUSD\n"
        + f"{OTHER},t1,2025-01-02T13:00:00+01:00,-0.00000001,\n"
        + f"{ONE.upper()},t0,2025-01-02 12:00:00.000001,0,GOLD\n"
    )
    assert statement.trades == {
        ONE: [Listed(2, "t1", NOON, 3 * UNITS_PER_WHOLE // 2, "EURUSD"), Listed(4, "t0", NOON + 1, 0, "GOLD")],
        OTHER: [Listed(3, "t1", NOON, -1, "")],
    }
    assert (statement.rows, statement.bad_rows, statement.faults) == (3, 0, [])
    assert statement.has_symbols


def test_columns_may_stand_in_any_order_under_any_name_beside_others(read: Read):
    columns = {"trade_id": "Ticket", "realized_pnl": "P=L", "executed_at": "Close time"}
    statement = read(
        f"P=L, note ,Close time ,Ticket,challenge_id\n1,hello,2025-01-02T12:00Z,7,{ONE}\n", Layout(ISO, columns)
    )
    assert statement.trades == {ONE: [Listed(2, "7", NOON, UNITS_PER_WHOLE, "")]}
    assert not statement.has_symbols


def test_a_statement_of_one_account_needs_no_column_of_challenges(read: Read):
    layout = Layout(ISO, challenge_id=ONE)
    statement = read("trade_id,executed_at,realized_pnl\nt1,2025-01-02T12:00Z,1\n", layout)
    assert statement.trades == {ONE: [Listed(2, "t1", NOON, UNITS_PER_WHOLE)]}
    assert "leave --challenge out" in complaint(read, HEADER, layout)


def test_an_empty_statement_of_one_account_is_about_that_account(read: Read):
    """An empty one of no account is about nothing, and most likely an export that failed."""
    statement = read("trade_id,executed_at,realized_pnl\n", Layout(ISO, challenge_id=ONE))
    assert statement.trades == {ONE: []}
    assert "nothing to compare" in complaint(read, HEADER)


def test_trade_ids_are_not_needed_where_times_match(read: Read):
    text = f"challenge_id,executed_at,realized_pnl\n{ONE},2025-01-02T12:00Z,1\n"
    statement = read(text, Layout(ISO, match=Match.TIME))
    assert statement.trades == {ONE: [Listed(2, "", NOON, UNITS_PER_WHOLE)]}
    assert "no column 'trade_id'" in complaint(read, text)


def test_trade_ids_and_symbols_are_taken_as_they_stand_and_other_cells_without_spaces_around_them(read: Read):
    statement = read(HEADER + f" {ONE} , t1 , 2025-01-02T12:00Z , 1 ,=1+1\n")
    assert statement.trades == {ONE: [Listed(2, " t1 ", NOON, UNITS_PER_WHOLE, "=1+1")]}


def test_a_row_is_named_by_the_line_it_begins_on(read: Read):
    """Also after empty rows, line ends of Windows, and cells of several lines."""
    statement = read(
        (HEADER + f'\n{ONE},"t\n1",2025-01-02T12:00Z,1,\n,,,,\n{ONE},t2,2025-01-02T12:01Z,x,\n').replace("\n", "\r\n")
    )
    assert [(trade.line, trade.trade_id) for trade in statement.trades[ONE]] == [(3, "t\r\n1")]
    assert [fault.line for fault in statement.faults] == [6]
    assert statement.rows == 2


def test_every_bad_cell_of_a_row_is_named_with_what_is_allowed_and_the_other_rows_are_read(read: Read):
    columns = {"realized_pnl": "Profit"}
    statement = read(
        "challenge_id,trade_id,executed_at,Profit\n"
        f'{ONE},t1,2025-01-02T12:00Z,"1,234.50"\n'
        "account 7,,yesterday,ten\n"
        f"{ONE},t3,2025-01-02T12:00Z\n"
        f"{ONE},t4,2025-01-02T12:00Z,4\n",
        Layout(ISO, columns),
    )
    assert [(fault.line, fault.column) for fault in statement.faults] == [
        (2, "Profit"), (3, "challenge_id"), (3, "trade_id"), (3, "executed_at"), (3, "Profit"), (4, None),
    ]  # fmt: skip
    for fault, said in zip(
        statement.faults,
        ("without separators of thousands", "UUID", "not be empty", "ISO 8601", "such as 1234.5", "4 cells"),
        strict=True,
    ):
        assert said in fault.message
    assert "got '1,234.50'" in statement.faults[0].message
    assert (statement.rows, statement.bad_rows) == (4, 3)
    assert statement.trades == {ONE: [Listed(5, "t4", NOON, 4 * UNITS_PER_WHOLE)]}


def test_bad_rows_are_all_counted_and_only_the_first_are_kept(read: Read):
    statement = read(HEADER + "x,,,,\n" * (MAX_BAD_ROWS + 7))
    assert statement.bad_rows == MAX_BAD_ROWS + 7
    assert {fault.line for fault in statement.faults} == set(range(2, MAX_BAD_ROWS + 2))


def test_a_byte_order_mark_belongs_to_no_column(read: Read):
    assert read(b"\xef\xbb\xbf" + HEADER.encode() + f"{ONE},t,2025-01-02T12:00Z,1,\n".encode()).trades


def test_another_delimiter_is_one(read: Read):
    text = (HEADER + f"{ONE},t,2025-01-02T12:00Z,1,\n").replace(",", ";")
    assert read(text, Layout(ISO, delimiter=";")).trades
    assert "--delimiter" in complaint(read, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n1,2\n", "no column 'challenge_id', 'trade_id', 'executed_at', 'realized_pnl'; its columns are 'a', 'b'"),
        (HEADER.replace("symbol", "trade_id"), "2 columns 'trade_id'"),
        (HEADER + f'{ONE},"t,2025-01-02T12:00Z,1,\n', "not well-formed CSV from line 2 on"),
        (HEADER.encode() + b"\xff\xfe\n", "not UTF-8"),
        (HEADER.encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_file_that_is_no_statement_is_refused_with_the_reason(read: Read, text: str | bytes, said: str):
    assert said in complaint(read, text)


def test_a_column_that_was_named_must_be_there(read: Read):
    assert "no column 'Coin'" in complaint(read, HEADER, Layout(ISO, {"symbol": "Coin"}))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path):
    for path in (tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(StatementError, match="cannot read"):
            read_statement(path, PLAIN)


def test_progress_is_told_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("challenge_server.statement_file.ROWS_A_STEP", 10)
    path = tmp_path / "statement.csv"
    path.write_text(HEADER + f"{ONE},t,2025-01-02T12:00Z,1,\n" * 100)
    told: list[tuple[int, int]] = []
    read_statement(path, PLAIN, lambda done, total: told.append((done, total)))
    assert len(told) == 10
    assert told == sorted(told)
    assert told[-1] == (path.stat().st_size,) * 2


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0", 0), ("-0", 0), ("-0.000", 0), ("+1", 10**8), ("007.50", 750_000_000), (" -12.5 ", -1_250_000_000),
        ("0.00000001", 1), ("0.000000010000000000", 1), ("9999999999999999.99999999", MAX_AMOUNT),
        ("0000000000000000000001.10", 110_000_000),
    ],
)  # fmt: skip
def test_an_amount_is_read_by_its_value(text: str, units: int):
    assert read_amount(text) == units


@pytest.mark.parametrize(
    "text",
    ["", "-", ".5", "5.", "1,5", "1,234.50", "1 234", "1e3", "NaN", "(5.00)", "$5", "0.000000001", "1.000000000000001",
     "10000000000000000", "٣", "1.5.2", "--1", "0x10", "1_000", "=1"],
)  # fmt: skip
def test_what_is_no_plain_amount_or_would_be_rounded_is_refused(text: str):
    with pytest.raises(ValueError, match="must be an amount such as"):
        read_amount(text)


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT), st.integers(0, 12), st.booleans())
def test_an_amount_written_in_any_of_its_forms_is_the_same(units: int, zeros: int, with_plus: bool):
    text = format_amount(units)
    longer = (text if "." in text else text + ".") + "0" * (zeros + 1)
    signed = f"+{longer}" if with_plus and units >= 0 else longer
    assert read_amount(text) == read_amount(signed) == units == int(Decimal(signed).scaleb(8).to_integral_exact())


@pytest.mark.parametrize(
    ("time_format", "text", "moment"),
    [
        ("iso", "2025-01-02T12:00:00Z", NOON),
        ("iso", "2025-01-02 17:30:00.000001+05:30", NOON + 1),
        ("iso", "2025-01-02T12:00:00.0000019Z", NOON + 1),
        ("iso", "20250102T120000", NOON),
        ("epoch_s", str(NOON // SECOND), NOON),
        ("epoch_s", f"{NOON // SECOND}.0000019", NOON + 1),
        ("epoch_s", "-0.0000001", -1),
        ("epoch_ms", f"{NOON // 1000}.5", NOON + 500),
        ("epoch_us", str(NOON + 1), NOON + 1),
        ("%d.%m.%Y %H:%M", "02.01.2025 12:00", NOON),
        ("%Y-%m-%dT%H:%M:%S.%f%z", "2025-01-02T13:00:00.000001+0100", NOON + 1),
    ],
)
def test_a_moment_is_read_to_the_microsecond_finer_digits_dropped_towards_the_past(
    time_format: str, text: str, moment: int
):
    assert moments_in(time_format, UTC)(text) == moment


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("iso", ""), ("iso", "2025-01-02"), ("iso", "20250102"), ("iso", "02.01.2025 12:00"),
        ("iso", "2025-02-30T12:00Z"),
        ("iso", "0001-01-01T00:00:00+01:00"), ("iso", "9999-12-31T23:59:59-01:00"),
        ("epoch_s", "1.73E+12"), ("epoch_s", ""), ("epoch_s", "999999999999"), ("epoch_us", "١"),
        ("epoch_ms", "1" * 19), ("%d.%m.%Y", "2025-01-02"),
    ],
)  # fmt: skip
def test_what_is_no_moment_of_the_format_is_refused(time_format: str, text: str):
    with pytest.raises(ValueError, match=r"^must .*got"):
        moments_in(time_format, UTC)(text)


@pytest.mark.parametrize("time_format", ["", "ISO", "epoch", "%Q", "%Y %Y", "%H:%M %Z", "%d.%m.%Y %"])
def test_a_format_that_there_is_not_is_refused_before_any_row(time_format: str):
    with pytest.raises(ValueError, match="must be"):
        moments_in(time_format, UTC)


def test_times_without_a_zone_are_of_the_given_one_where_clocks_change_too():
    """The hour that is repeated is its first one, and one that is skipped is refused. A named zone is obeyed."""
    berlin = moments_in("iso", zone_of("Europe/Berlin"))
    assert to_iso(berlin("2025-01-02T13:00:00")) == to_iso(NOON)
    assert to_iso(berlin("2025-07-02T14:00:00")) == "2025-07-02T12:00:00.000000Z"
    assert to_iso(berlin("2025-10-26T02:30:00")) == "2025-10-26T00:30:00.000000Z"
    assert berlin("2025-01-02T12:00:00Z") == NOON
    with pytest.raises(ValueError, match="clocks skipped"):
        berlin("2025-03-30T02:30:00")
    with pytest.raises(ValueError, match="between the years"):
        berlin("0001-01-01T00:00:00")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "Europe", "+05:30"])
def test_a_zone_that_there_is_not_is_refused(name: str):
    with pytest.raises(ValueError, match="must be a time zone such as"):
        zone_of(name)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_that_we_write_is_read_as_the_same(moment: object):
    text = str(moment)
    assert ISO(text) == from_iso(text)


def test_a_date_is_its_midnight_where_a_date_will_do():
    assert read_iso("2025-01-02", zone_of("Europe/Berlin")) == NOON - 13 * 3600 * SECOND


def test_challenge_ids_are_read_in_lower_case():
    assert read_challenge_id(f" {ONE.upper()}") == ONE


def test_a_cell_is_shown_without_what_a_terminal_would_obey_and_not_at_any_length():
    assert shown("\x1b[2J\u202e[red]é") == r"'\x1b[2J\u202e[red]é'"
    assert len(shown("x" * 10_000)) == MAX_SHOWN + 3


def test_a_fault_of_a_whole_row_names_no_column(read: Read):
    statement = read(HEADER + "1,2\n")
    assert statement.faults == [Fault(2, None, "must have 5 cells, as the header has; got 2")]
