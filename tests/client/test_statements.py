"""Files of account histories: what becomes a trade, and what is said about a row that cannot."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from challenge_client.cli.outcomes import UsageError
from challenge_client.cli.statements import PRESETS, Columns, overridden, read_file

PLAIN = Columns(time="when", pnl="pnl")
MINUTE = timedelta(minutes=1)
TIE = timedelta(microseconds=1)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def write(tmp_path):
    def written(text, encoding="utf-8"):
        path = tmp_path / "history.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path

    return written


def read(path, columns=PLAIN):
    return read_file(path, columns, default_account="mine")


def only(file):
    (statement,) = file.statements
    return statement


def test_rows_become_trades_in_the_order_of_time_each_with_its_line(write):
    file = read(write("when,pnl\n2026-03-02T12:01Z,-1.5\n\n2026-03-02 12:00:00+00:00,2\n"))
    statement = only(file)
    assert (statement.account, file.rows, file.refused) == ("mine", 2, [])
    assert [(t.executed_at, t.realized_pnl) for t in statement.trades] == [(NOON, 2), (NOON + MINUTE, Decimal("-1.5"))]
    assert [statement.lines[t.trade_id] for t in statement.trades] == [[4], [2]]


def test_equal_rows_are_trades_of_their_own_with_ids_that_do_not_depend_on_other_rows(write):
    row, other = "2026-03-02T12:00Z,1\n", "2026-03-02T11:00Z,7\n"
    twice = only(read(write("when,pnl\n" + row + row)))
    assert [t.executed_at for t in twice.trades] == [NOON, NOON + TIE]
    assert len({t.trade_id for t in twice.trades}) == 2
    moved = only(read(write("when,pnl\n" + other + row + row)))
    assert {t.trade_id for t in twice.trades} < {t.trade_id for t in moved.trades}


@pytest.mark.parametrize("text", ["1.5", "12.3456", "1.23,4", "0.35"])
def test_a_point_that_does_not_part_thousands_is_refused_where_the_comma_is_decimal(write, text):
    file = read(write(f'when,pnl\n2026-03-02T12:00Z,"{text}"\n'), Columns(time="when", pnl="pnl", decimal_comma=True))
    assert (file.statements, len(file.refused)) == ([], 1)
    assert "such as -1.234,56" in file.refused[0].message


def test_a_file_with_the_newest_first_is_read_from_its_end(write):
    """So ties keep the order in which they happened, and a row that is added later changes no other."""
    rows = "2026-03-02T12:01Z,3\n2026-03-02T12:00Z,2\n2026-03-02T12:00Z,1\n"
    file = read(write("when,pnl\n" + rows))
    assert [t.realized_pnl for t in only(file).trades] == [1, 2, 3]
    grown = read(
        write("when,pnl\n2026-03-02T12:01Z,4\n2026-03-02T12:01Z,3\n2026-03-02T12:00Z,2\n2026-03-02T12:00Z,1\n")
    )
    assert only(grown).trades[:3] == only(file).trades


def test_a_time_that_clocks_skipped_is_refused(write):
    columns = Columns(time="when", pnl="pnl", zone="Europe/Berlin")
    file = read(write("when,pnl\n2026-03-29T02:30,1\n2026-03-29T03:30,2\n"), columns)
    assert [t.realized_pnl for t in only(file).trades] == [2]
    assert "must be a time that exists in Europe/Berlin" in file.refused[0].message


def test_one_account_alone_can_be_read(write):
    columns = Columns(time="when", pnl="pnl", account="who")
    path = write("when,pnl,who\n2026-03-02T12:00Z,1,ann\n2026-03-02T12:00Z,x,bob\n")
    assert read_file(path, columns, "", only="ann").refused == []
    with pytest.raises(UsageError, match="has no account 'cat'; it has 'ann', 'bob'"):
        read_file(path, columns, "", only="cat")


def test_a_file_that_is_no_csv_is_refused_as_a_whole(write):
    with pytest.raises(UsageError, match="is not well-formed CSV from line 3 on"):
        read(write('when,pnl\n2026-03-02T12:00Z,1\n"2026-03-02T12:00Z,2\n'))


def test_a_bad_row_changes_no_id_of_its_equals(write):
    columns = Columns(time="when", pnl="pnl", symbol="symbol")
    good = only(read(write("when,pnl,symbol\n2026-03-02T12:00Z,1,A\n2026-03-02T12:00Z,1,A\n"), columns))
    mended = read(write("when,pnl,symbol\n2026-03-02T12:00Z,x,A\n2026-03-02T12:00Z,1,A\n"), columns)
    assert only(mended).trades[0].trade_id == good.trades[0].trade_id


def test_costs_are_subtracted_and_signed_amounts_added_exactly(write):
    columns = Columns(time="when", pnl="pnl", costs=("fee", "tax"), added=("swap",))
    file = read(write("when,pnl,fee,tax,swap\n2026-03-02T12:00Z,0.1,0.2,,-1e-8\n"), columns)
    assert only(file).trades[0].realized_pnl == Decimal("-0.10000001")


def test_times_without_a_zone_are_of_the_zone_that_is_named(write):
    text = "when,pnl\n02.03.2026 12:00,1\n"
    for zone, hours in (("UTC", 0), ("+05:30", 5.5), ("-03:00", -3), ("Europe/Berlin", 1)):
        columns = Columns(time="when", pnl="pnl", time_format="%d.%m.%Y %H:%M", zone=zone)
        assert only(read(write(text), columns)).trades[0].executed_at == NOON - timedelta(hours=hours)


def test_a_time_that_names_its_zone_keeps_it(write):
    columns = Columns(time="when", pnl="pnl", zone="+09:00")
    assert only(read(write("when,pnl\n2026-03-02T13:00+01:00,1\n"), columns)).trades[0].executed_at == NOON


@pytest.mark.parametrize(
    ("text", "decimal_comma", "pnl"),
    [
        ("1 234.5", False, "1234.5"),
        ("1\u00a0234.5", False, "1234.5"),
        ("-1'234.5", False, "-1234.5"),
        ('"1.234.567,5"', True, "1234567.5"),
        ('"0,5"', True, "0.5"),
        ('"1.234,56"', True, "1234.56"),
        ("+7", False, "7"),
        ("1.5E+2", False, "150"),
    ],
)
def test_numbers_as_people_write_them(write, text, decimal_comma, pnl):
    columns = Columns(time="when", pnl="pnl", decimal_comma=decimal_comma)
    assert only(read(write(f"when,pnl\n2026-03-02T12:00Z,{text}\n"), columns)).trades[0].realized_pnl == Decimal(pnl)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2026-03-02T12:00Z", "has 1 cells where the header has 2"),
        ("2026-03-02T12:00Z,1,2", "has 3 cells where the header has 2"),
        ("2026-03-02T12:00Z,abc", "pnl must be a number such as -12.5, got 'abc'"),
        ("2026-03-02T12:00Z,", "pnl must be a number such as -12.5, got ''"),
        ("2026-03-02T12:00Z,nan", "pnl must be a number"),
        ("2026-03-02T12:00Z,1 5", "pnl must be a number"),
        ("2026-03-02T12:00Z,1e99", "at most 16 digits before the point"),
        ("2026-03-02T12:00Z,0.123456789", "at most 8 decimal places"),
        ("yesterday,1", "when must be a time in ISO 8601, got 'yesterday'"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_the_others_are_read(write, row, message):
    file = read(write(f"when,pnl\n2026-03-02T11:00Z,1\n{row}\n2026-03-02T13:00Z,2\n"))
    assert [t.realized_pnl for t in only(file).trades] == [1, 2]
    (refused,) = file.refused
    assert refused.line == 3
    assert message in refused.message


def test_lines_are_those_of_the_file_also_behind_a_cell_of_several_lines(write):
    columns = Columns(time="when", pnl="pnl", symbol="note")
    file = read(write('when,pnl,note\n2026-03-02T11:00Z,1,"a\nb\nc"\n2026-03-02T12:00Z,x,d\n'), columns)
    assert [row.line for row in file.refused] == [5]


def test_each_account_is_a_statement_of_its_own(write):
    columns = Columns(time="when", pnl="pnl", account="who")
    text = "when,pnl,who\n2026-03-02T12:00Z,1,ann\n2026-03-02T12:00Z,2,bob\n2026-03-02T12:00Z,3,ann\n"
    file = read(write(text), columns)
    assert [(s.account, [t.realized_pnl for t in s.trades]) for s in file.statements] == [("ann", [1, 3]), ("bob", [2])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_and_delimiters_are_found(write, encoding, delimiter):
    text = f"when{delimiter}pnl\n2026-03-02T12:00Z{delimiter}1\n"
    assert len(only(read(write(text, encoding))).trades) == 1


def test_what_is_no_such_file_is_refused_with_what_is_allowed(write, tmp_path):
    for content, columns, message in (
        ("when,profit\n", PLAIN, "has no column 'pnl'; its columns are 'when', 'profit'"),
        ("", PLAIN, "is empty"),
        (b"when,pnl\n\xff\xff", PLAIN, "is not UTF-8"),
        ("when,pnl\n", Columns(), "name the columns of time and P&L"),
        ("when,pnl\n", Columns(time="when", pnl="pnl", zone="Mars"), "--zone must be an IANA name"),
    ):
        with pytest.raises(UsageError, match=message):
            read(write(content), columns)
    with pytest.raises(UsageError, match=r"cannot read .*: No such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="--preset must be one of hyperliquid, metatrader4"):
        overridden("excel")


def test_what_is_named_goes_over_the_preset():
    columns = overridden("metatrader5", zone="Europe/Berlin", costs=(), time="")
    assert (columns.zone, columns.time, columns.pnl) == ("Europe/Berlin", "Time", "Profit")
    assert columns.added == PRESETS["metatrader5"].added


METATRADER_4 = """Ticket;Open Time;Type;Size;Item;Price;S / L;T / P;Close Time;Price;Commission;Taxes;Swap;Profit
1001;2026.03.01 08:00:00;balance;;;;;;2026.03.01 08:00:00;;;;;100 000.00
1002;2026.03.02 11:00:00;buy;1.00;eurusd;1.08000;0;0;2026.03.02 12:00:00;1.08250;-7.00;0.00;-1.25;250.00
1003;2026.03.02 11:30:00;buy limit;1.00;eurusd;1.07000;0;0;2026.03.02 12:30:00;1.08;0;0;0;0
"""
METATRADER_5 = """Time;Deal;Symbol;Type;Direction;Volume;Price;Order;Commission;Fee;Swap;Profit;Balance;Comment
2026.03.01 08:00:00;2001;;balance;;;;;0.00;0.00;0.00;100 000.00;100 000.00;deposit
2026.03.02 11:00:00;2002;EURUSD;buy;in;1;1.08;3001;-3.50;0.00;0.00;0.00;99 996.50;
2026.03.02 12:00:00;2003;EURUSD;sell;out;1;1.0825;3002;-3.50;0.00;-1.25;1 250.00;101 241.75;
""".replace(";", "\t")
METATRADER_5_POSITIONS = """Time,Position,Symbol,Type,Volume,Price,S / L,T / P,Time,Price,Commission,Swap,Profit
2026.03.02 11:00:00,3001,EURUSD,buy,1,1.08,,,2026.03.02 12:00:00,1.0825,-7.00,-1.25,250.00
"""


@pytest.mark.parametrize(
    ("preset", "text", "encoding", "trades", "skipped"),
    [
        ("metatrader4", METATRADER_4, "utf-8", [("1002", "241.75", "eurusd", NOON)], 2),
        (
            "metatrader5",
            METATRADER_5,
            "utf-16",
            [("2002", "-3.5", "EURUSD", NOON - 60 * MINUTE), ("2003", "1245.25", "EURUSD", NOON)],
            1,
        ),
        ("metatrader5-positions", METATRADER_5_POSITIONS, "utf-8-sig", [("3001", "241.75", "EURUSD", NOON)], 0),
    ],
)
def test_metatrader_histories(write, preset, text, encoding, trades, skipped):
    file = read(write(text, encoding), PRESETS[preset])
    found = [(t.trade_id, str(t.realized_pnl), t.symbol, t.executed_at) for t in only(file).trades]
    assert (found, file.skipped, file.refused) == (trades, skipped, [])


def test_the_shipped_file_is_read_as_the_demo_reads_it(project_root):
    from challenge_server.fills import read_fills

    path = project_root / "server" / "challenge_server" / "data" / "hyperliquid_fills.csv"
    file = read(path, PRESETS["hyperliquid"])
    assert (file.rows, file.refused, file.skipped) == (1963, [], 0)
    for statement in file.statements:
        fills = read_fills()[statement.account]
        assert [(t.realized_pnl, t.executed_at, t.symbol) for t in statement.trades] == [
            (fill.realized_pnl, fill.executed_at, fill.symbol) for fill in fills
        ]
