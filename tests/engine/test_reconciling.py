"""What a statement and the records disagree about: the comparison against a model, and the reading of the records."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from challenge_engine import reconciling_queries
from challenge_engine import recorded_trades as reading
from challenge_engine.database import DatabaseError
from challenge_engine.reconciling import (
    Comparison,
    Difference,
    Finding,
    FindingKind,
    Listed,
    Match,
    Reconciled,
    Recorded,
    Total,
    out_of_place,
    reconcile,
)
from challenge_engine.recorded_trades import RecordedTrades, recorded_trades
from challenge_rules.money import UNITS_PER_WHOLE
from tests.engine.harness import NOON, SECOND, RunningEngine, conninfo, new_id, sql, submission

CHALLENGE = new_id()
BY_ID, BY_TIME = Comparison(), Comparison(match=Match.TIME)
MISSING, EXTRA, DIFFERENT, OUT_OF_ORDER, DUPLICATE, UNKNOWN = FindingKind
FIRST_LINE = 2


def recorded(count: int) -> list[Recorded]:
    """Trades t1, t2, … a second apart, each with a P&L of its own."""
    return [
        Recorded(number, f"t{number}", NOON + number * SECOND, number * UNITS_PER_WHOLE, "EURUSD")
        for number in range(1, count + 1)
    ]


def listed(trades: Sequence[Recorded | Listed]) -> list[Listed]:
    """A statement of these trades, in this order."""
    return [
        Listed(line, trade.trade_id, trade.executed_at, trade.realized_pnl, trade.symbol)
        for line, trade in enumerate(trades, FIRST_LINE)
    ]


def compared(
    statement: Sequence[Listed], ours: Sequence[Recorded] | None, comparison: Comparison = BY_ID
) -> Reconciled:
    return reconcile(CHALLENGE, statement, None if ours is None else iter(ours), comparison)


def gist(found: Reconciled) -> list[tuple[FindingKind, int | None, int | None]]:
    """Kind, line of the statement and sequence of ours."""
    return [(finding.kind, finding.line, finding.sequence) for finding in found.findings]


@pytest.mark.parametrize("comparison", [BY_ID, BY_TIME])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_an_equal_statement_has_no_findings(comparison: Comparison, count: int):
    found = compared(listed(recorded(count)), recorded(count), comparison)
    assert found.findings == ()
    assert found.listed == found.recorded == Total(count, sum(range(count + 1)) * UNITS_PER_WHOLE)


@pytest.mark.parametrize("comparison", [BY_ID, BY_TIME])
class TestOneFault:
    """Each is one finding of its kind, and the only one."""

    @given(count=st.integers(1, 9), data=st.data())
    def test_a_trade_that_was_never_recorded(self, comparison: Comparison, count: int, data: st.DataObject):
        ours = recorded(count)
        lost = ours.pop(data.draw(st.integers(0, count - 1)))
        found = compared(listed(recorded(count)), ours, comparison)
        assert gist(found) == [(MISSING, lost.sequence - 1 + FIRST_LINE, None)]
        assert found.findings[0].trade_id == lost.trade_id
        assert found.listed - found.recorded == Total(1, lost.realized_pnl)

    @given(count=st.integers(1, 9), data=st.data())
    def test_a_trade_that_is_not_listed(self, comparison: Comparison, count: int, data: st.DataObject):
        theirs = recorded(count)
        left_out = theirs.pop(data.draw(st.integers(0, count - 1)))
        found = compared(listed(theirs), recorded(count), comparison)
        assert gist(found) == [(EXTRA, None, left_out.sequence)]
        assert found.recorded - found.listed == Total(1, left_out.realized_pnl)

    @given(count=st.integers(1, 9), data=st.data(), units=st.integers(-5, 5).filter(bool))
    def test_an_amount_that_is_not_the_same_to_its_last_digit(
        self, comparison: Comparison, count: int, data: st.DataObject, units: int
    ):
        statement = listed(recorded(count))
        place = data.draw(st.integers(0, count - 1))
        wrong = statement[place]
        statement[place] = wrong._replace(realized_pnl=wrong.realized_pnl + units)
        found = compared(statement, recorded(count), comparison)
        assert gist(found) == [(DIFFERENT, wrong.line, place + 1)]
        assert [each.field for each in found.findings[0].differences] == ["realized_pnl"]
        assert found.listed - found.recorded == Total(0, units)

    @given(count=st.integers(1, 9), data=st.data())
    def test_another_symbol(self, comparison: Comparison, count: int, data: st.DataObject):
        statement = listed(recorded(count))
        place = data.draw(st.integers(0, count - 1))
        statement[place] = statement[place]._replace(symbol="GOLD")
        found = compared(statement, recorded(count), comparison)
        assert gist(found) == [(DIFFERENT, place + FIRST_LINE, place + 1)]
        assert found.findings[0].differences == (Difference("symbol", "GOLD", "EURUSD"),)
        assert not compared(statement, recorded(count), replace(comparison, compares_symbols=False)).findings

    @given(count=st.integers(3, 9), data=st.data())
    def test_a_trade_that_was_moved_by_more_than_one_place(
        self, comparison: Comparison, count: int, data: st.DataObject
    ):
        """Is named itself, not those that it passed."""
        trades = recorded(count)
        origin, place = data.draw(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(
                lambda pair: abs(pair[0] - pair[1]) > 1
            )
        )
        moved = trades.pop(origin)
        trades.insert(place, moved)
        found = compared(listed(trades), recorded(count), comparison)
        assert gist(found) == [(OUT_OF_ORDER, place + FIRST_LINE, moved.sequence)]
        assert found.listed == found.recorded

    @given(count=st.integers(2, 9), data=st.data())
    def test_two_neighbours_that_changed_places(self, comparison: Comparison, count: int, data: st.DataObject):
        trades = recorded(count)
        place = data.draw(st.integers(0, count - 2))
        trades[place : place + 2] = reversed(trades[place : place + 2])
        ((kind, line, sequence),) = gist(compared(listed(trades), recorded(count), comparison))
        assert kind is OUT_OF_ORDER
        assert (line, sequence) in {
            (place + FIRST_LINE, place + 2),
            (place + 1 + FIRST_LINE, place + 1),
        }

    @given(count=st.integers(1, 9), data=st.data())
    def test_a_trade_that_is_listed_twice(self, comparison: Comparison, count: int, data: st.DataObject):
        """Wherever the second row stands, it is compared with nothing and out of no order."""
        trades = recorded(count)
        origin = data.draw(st.integers(0, count - 1))
        place = data.draw(st.integers(origin + 1, count))
        trades.insert(place, trades[origin])
        found = compared(listed(trades), recorded(count), comparison)
        assert gist(found) == [(DUPLICATE, place + FIRST_LINE, None)]
        assert found.findings[0].first_line == origin + FIRST_LINE
        assert found.listed - found.recorded == Total(1, trades[origin].realized_pnl)

    def test_a_challenge_that_does_not_exist(self, comparison: Comparison):
        """One finding for all its trades, which the totals count."""
        found = compared(listed(recorded(3)), None, comparison)
        assert found.findings == (Finding(UNKNOWN, CHALLENGE, line=FIRST_LINE),)
        assert (found.listed, found.recorded) == (Total(3, 6 * UNITS_PER_WHOLE), Total())
        assert gist(compared([], None, comparison)) == [(UNKNOWN, None, None)]


def test_another_time_is_a_difference_where_trade_ids_match_and_two_trades_where_times_do():
    statement = [listed(recorded(1))[0]._replace(executed_at=NOON)]
    (by_id,) = compared(statement, recorded(1), BY_ID).findings
    assert by_id.differences == (
        Difference("executed_at", "2025-01-02T12:00:00.000000Z", "2025-01-02T12:00:01.000000Z"),
    )
    assert gist(compared(statement, recorded(1), BY_TIME)) == [(MISSING, FIRST_LINE, None), (EXTRA, None, 1)]


def test_trade_ids_are_not_compared_where_times_match():
    statement = [trade._replace(trade_id="") for trade in listed(recorded(3))]
    assert not compared(statement, recorded(3), BY_TIME).findings
    wrong = [statement[0]._replace(realized_pnl=0), *statement[1:]]
    (finding,) = compared(wrong, recorded(3), BY_TIME).findings
    assert finding.trade_id == "t1"


def test_every_field_that_differs_is_named_with_both_values():
    ours = [Recorded(1, "t1", NOON, 5 * UNITS_PER_WHOLE // 2, "EURUSD")]
    (finding,) = compared([Listed(9, "t1", NOON + 1, -1, "")], ours).findings
    assert finding.differences == (
        Difference("executed_at", "2025-01-02T12:00:00.000001Z", "2025-01-02T12:00:00.000000Z"),
        Difference("realized_pnl", "-0.00000001", "2.5"),
        Difference("symbol", "", "EURUSD"),
    )


def test_times_are_compared_in_whole_units_of_the_statements_precision():
    ours = [Recorded(1, "t1", NOON + SECOND - 1, 0, "")]
    seconds = Comparison(precision=SECOND)
    assert not compared([Listed(2, "t1", NOON, 0)], ours, seconds).findings
    assert gist(compared([Listed(2, "t1", NOON + SECOND, 0)], ours, seconds)) == [(DIFFERENT, 2, 1)]
    with pytest.raises(ValueError, match="microsecond"):
        Comparison(match=Match.TIME, precision=SECOND)


def test_what_we_have_outside_of_the_statements_time_need_not_be_listed():
    """From the first moment on, before the last; what is listed is compared wherever it lies."""
    ours = recorded(5)
    about = Comparison(executed_from=NOON + 2 * SECOND, executed_before=NOON + 5 * SECOND)
    found = compared(listed([ours[2], ours[4]]), ours, about)
    assert gist(found) == [(EXTRA, None, 2), (EXTRA, None, 4)]
    assert (found.listed.count, found.recorded.count) == (2, 4)


def test_a_statement_with_the_newest_first_is_in_order_read_from_its_end():
    statement = listed(recorded(5)[::-1])
    assert not compared(statement, recorded(5), Comparison(newest_first=True)).findings
    assert len(compared(statement, recorded(5)).findings) == 4


def test_findings_are_sorted_by_line_and_those_without_one_come_last():
    trades = recorded(6)
    statement = listed([trades[3], trades[0], trades[0], Recorded(0, "new", NOON, 1), trades[1], trades[2]])
    statement[0] = statement[0]._replace(realized_pnl=0)
    assert gist(compared(statement, trades)) == [
        (DIFFERENT, 2, 4), (OUT_OF_ORDER, 2, 4), (DUPLICATE, 4, None), (MISSING, 5, None), (EXTRA, None, 5),
        (EXTRA, None, 6),
    ]  # fmt: skip


def longest_increasing(numbers: Sequence[int]) -> int:
    """By trying every choice of them."""
    return max(
        length
        for length in range(len(numbers) + 1)
        for chosen in itertools.combinations(numbers, length)
        if list(chosen) == sorted(chosen)
    )


@given(st.permutations(range(8)))
def test_the_numbers_out_of_place_are_the_fewest(numbers: list[int]):
    left_out = out_of_place(numbers)
    rest = [number for place, number in enumerate(numbers) if place not in left_out]
    assert rest == sorted(rest)
    assert len(rest) == longest_increasing(numbers)


IDS = st.sampled_from([f"t{number}" for number in range(6)])
MOMENTS = st.integers(NOON, NOON + 5)
AMOUNTS = st.integers(-2, 2)
SYMBOLS = st.sampled_from(["", "GOLD"])
BOUNDS = st.none() | MOMENTS


@st.composite
def records(draw: st.DrawFn) -> list[Recorded]:
    """Trades with different ids at increasing moments."""
    ids = draw(st.lists(IDS, unique=True, max_size=6))
    moments = sorted(draw(st.lists(MOMENTS, unique=True, min_size=len(ids), max_size=len(ids))))
    pairs = zip(ids, moments, strict=True)
    return [
        Recorded(number, trade_id, moment, draw(AMOUNTS), draw(SYMBOLS))
        for number, (trade_id, moment) in enumerate(pairs, 1)
    ]


STATEMENTS = st.lists(st.builds(Recorded, st.just(0), IDS, MOMENTS, AMOUNTS, SYMBOLS), max_size=7).map(listed)
COMPARISONS = st.builds(
    Comparison,
    match=st.sampled_from(Match),
    compares_symbols=st.booleans(),
    executed_from=BOUNDS,
    executed_before=BOUNDS,
    newest_first=st.booleans(),
)


def model(
    statement: list[Listed], ours: list[Recorded], how: Comparison
) -> set[tuple[FindingKind, int | None, int | None]]:
    """The findings but those of order, every row looked at beside every trade."""

    def same(row: Listed, trade: Listed | Recorded) -> bool:
        return row.executed_at == trade.executed_at if how.match is Match.TIME else row.trade_id == trade.trade_id

    found: set[tuple[FindingKind, int | None, int | None]] = set()
    for row in statement:
        if any(other.line < row.line and same(row, other) for other in statement):
            found.add((DUPLICATE, row.line, None))
            continue
        partners = [trade for trade in ours if same(row, trade)]
        if not partners:
            found.add((MISSING, row.line, None))
        for trade in partners:
            wrong = row.realized_pnl != trade.realized_pnl or row.executed_at != trade.executed_at
            if wrong or (how.compares_symbols and row.symbol != trade.symbol):
                found.add((DIFFERENT, row.line, trade.sequence))
    for trade in ours:
        early = how.executed_from is not None and trade.executed_at < how.executed_from
        late = how.executed_before is not None and not trade.executed_at < how.executed_before
        if not early and not late and not any(same(row, trade) for row in statement):
            found.add((EXTRA, None, trade.sequence))
    return found


@given(statement=STATEMENTS, ours=records(), how=COMPARISONS)
def test_any_statement_is_found_to_differ_as_the_model_says(
    statement: list[Listed], ours: list[Recorded], how: Comparison
):
    found = compared(statement, ours, how)
    assert max(Counter(gist(found)).values(), default=1) == 1
    by_order = {each for each in gist(found) if each[0] is OUT_OF_ORDER}
    assert set(gist(found)) - by_order == model(statement, ours, how)
    key = "executed_at" if how.match is Match.TIME else "trade_id"
    sequences = {getattr(trade, key): trade.sequence for trade in ours}
    rows = {getattr(row, key): row.line for row in reversed(statement)}
    order = [sequences[each] for each in sorted(rows, key=rows.__getitem__) if each in sequences]
    order = order[::-1] if how.newest_first else order
    moved = {sequence for _, _, sequence in by_order}
    rest = [sequence for sequence in order if sequence not in moved]
    assert rest == sorted(rest)
    assert len(rest) == longest_increasing(order)


@given(statement=STATEMENTS, ours=records(), how=COMPARISONS)
def test_the_findings_account_for_the_difference_of_the_totals(
    statement: list[Listed], ours: list[Recorded], how: Comparison
):
    found = compared(statement, ours, how)
    pnl = {trade.sequence: trade.realized_pnl for trade in ours}
    count = amount = 0
    for finding in found.findings:
        assert finding.realized_pnl is not None
        if finding.kind in (MISSING, DUPLICATE):
            count, amount = count + 1, amount + finding.realized_pnl
        elif finding.kind is EXTRA:
            count, amount = count - 1, amount - finding.realized_pnl
        elif finding.kind is DIFFERENT:
            assert finding.sequence is not None
            amount += finding.realized_pnl - pnl[finding.sequence]
    assert found.listed - found.recorded == Total(count, amount)


def read_all(records: RecordedTrades, *challenge_ids: str) -> list[tuple[str, list[Recorded] | None]]:
    return [(each, None if trades is None else list(trades)) for each, trades in records.of(challenge_ids)]


class TestReading:
    """The records as the database has them."""

    async def test_challenges_come_in_the_order_asked_for_each_with_its_trades_by_sequence(
        self, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
    ):
        """Over the ends of pages and of groups of challenges; one may have no trade, or not exist."""
        monkeypatch.setattr(reading, "CHALLENGES_AT_ONCE", 2)
        monkeypatch.setattr(reading, "PAGE_SIZE", 3)
        many, pending, one = await engine.create(), await engine.create(), await engine.create()
        unknown = new_id()
        await engine.batch(*(submission(many, f"t{number}", "-0.00000001", number) for number in range(10)))
        await engine.batch(submission(one, "only", "1.5", 0.000001, symbol="GOLD"))
        with recorded_trades(engine.url) as records:
            found = read_all(records, one, unknown, many, pending)
        assert [each for each, _ in found] == [one, unknown, many, pending]
        by_id = dict(found)
        assert by_id[one] == [Recorded(1, "only", NOON + 1, 3 * UNITS_PER_WHOLE // 2, "GOLD")]
        assert by_id[unknown] is None
        assert by_id[pending] == []
        assert by_id[many] == [
            Recorded(number + 1, f"t{number}", NOON + number * SECOND, -1, "") for number in range(10)
        ]

    async def test_trades_that_are_not_read_to_their_end_do_not_shift_the_next(self, engine: RunningEngine):
        first, second = await engine.create(), await engine.create()
        await engine.batch(*(submission(each, f"t{n}", "1", n) for n in range(3) for each in (first, second)))
        with recorded_trades(engine.url) as records:
            assert [each for each, trades in records.of([first, second]) if trades and next(trades)] == [first, second]

    async def test_what_the_service_records_meanwhile_is_not_seen(self, engine: RunningEngine):
        challenge_id = await engine.create()
        await engine.trading.submit(submission(challenge_id, "before"))
        with recorded_trades(engine.url) as records:
            await engine.trading.submit(submission(challenge_id, "meanwhile", second=1))
            later = await engine.create()
            found = dict(read_all(records, challenge_id, later))
        assert [trade.trade_id for trade in found[challenge_id] or ()] == ["before"]
        assert found[later] is None

    async def test_it_can_write_nothing(self, engine: RunningEngine):
        challenge_id = await engine.create()
        with recorded_trades(engine.url) as records:
            assert read_all(records, challenge_id) == [(challenge_id, [])]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                records._connection.execute("DELETE FROM trades")

    async def test_a_role_that_may_do_nothing_but_read_is_enough(self, engine: RunningEngine):
        challenge_id = await engine.create()
        for statement in (
            "CREATE ROLE auditor LOGIN PASSWORD 'auditor'",
            "GRANT SELECT ON challenges, alembic_version TO auditor",
        ):
            await sql(engine.url, statement)
        try:
            url = engine.url.set(username="auditor", password="auditor")
            with pytest.raises(DatabaseError, match="lacks privileges: SELECT on trades"), recorded_trades(url):
                pass
            await sql(engine.url, "GRANT SELECT ON trades TO auditor")
            with recorded_trades(url) as records:
                assert read_all(records, challenge_id) == [(challenge_id, [])]
        finally:
            await sql(engine.url, "DROP OWNED BY auditor")
            await sql(engine.url, "DROP ROLE auditor")

    async def test_trades_are_looked_up_by_an_index_however_many_challenges_are_asked_for(
        self, engine: RunningEngine, database_url: URL
    ):
        challenge_ids = [await engine.create() for _ in range(200)]
        for first in range(0, len(challenge_ids), 100):
            await engine.batch(*(submission(each, "t", "1") for each in challenge_ids[first : first + 100]))
        with psycopg.connect(conninfo(database_url)) as connection:
            connection.execute("ANALYZE challenges, trades")
            connection.execute(reconciling_queries.CONFIGURE_SNAPSHOT, reading.SNAPSHOT_SETTINGS)
            rows = connection.execute(
                "EXPLAIN " + reconciling_queries.TRADES_OF_CHALLENGES, {"challenge_ids": challenge_ids}
            ).fetchall()
        plan = "\n".join(line for (line,) in rows)
        assert "Seq Scan" not in plan
        assert "challenges_pkey" in plan
        assert "trades_pkey" in plan or "trades_trade_id_unique" in plan
