"""Values of the rules and rows of PostgreSQL: each is mapped there and back without a change."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from challenge_engine import queries, rows
from challenge_rules import (
    ChallengeEngine,
    ChallengeEvent,
    ChallengeState,
    ChallengeTerms,
    Limits,
    RecordedTrade,
    Trade,
)
from challenge_rules.currencies import ISO_4217
from challenge_rules.engine import initial_state
from challenge_rules.money import MAX_AMOUNT, parse_amount
from challenge_rules.timestamps import MAX_SECONDS, MICROSECONDS_PER_DAY, MIN_SECONDS
from tests.engine.harness import Connection, sql_session

EARLIEST = MIN_SECONDS * 1_000_000
LATEST = MAX_SECONDS * 1_000_000 + 999_999
moments = st.integers(EARLIEST, LATEST) | st.sampled_from((EARLIEST, LATEST, -1, 0, 1))
printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
ascii_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
all_terms = st.builds(
    ChallengeTerms,
    challenge_id=st.uuids().map(str),
    initial_balance=st.integers(1_000_000, MAX_AMOUNT),
    limits=st.builds(
        Limits, st.integers(1, 999_999), st.integers(1, 999_999), st.integers(1, 100_000_000) | st.just(100_000_000)
    ),
    currency_code=st.sampled_from(sorted(ISO_4217)),
    labels=st.dictionaries(printable.filter(bool), printable, max_size=4).map(lambda d: tuple(sorted(d.items()))),
    rules_version=st.just(1),
    created_at=moments,
)
pnls = st.integers(-MAX_AMOUNT, MAX_AMOUNT) | st.sampled_from((0, 1, -1, 10**8))


def lived(terms: ChallengeTerms, pnls_: list[int], first: int, ids: list[str], symbol: str):
    """The challenge, its trades and its events after some trades, by the pure engine."""
    engine = ChallengeEngine()
    state, created = engine.create(terms)
    trades: list[RecordedTrade] = []
    events: list[ChallengeEvent] = [created]
    for number, pnl in enumerate(pnls_):
        trade = Trade(ids[number], pnl, min(first + number * MICROSECONDS_PER_DAY // 2, LATEST - 9 + number), symbol)
        try:
            outcome = engine.decide(state, trade, recorded_at=LATEST - number)
        except ValueError:
            continue
        state = outcome.state
        trades.append(RecordedTrade(trade, outcome.decision, outcome.state.chain_head))
        events.extend(outcome.events)
    return state, trades, events


async def stored_and_read(connection: Connection, state: ChallengeState, trades, events):
    terms = state.terms
    await connection.execute(queries.INSERT_CHALLENGE, (rows.challenge_to_json(initial_state(terms)),))
    if trades:
        await connection.execute(
            queries.INSERT_TRADES, (rows.trades_to_json((trade, terms.initial_balance) for trade in trades),)
        )
        await connection.execute(
            queries.UPDATE_CHALLENGES,
            ([terms.challenge_id], rows.challenges_to_json([(1, state)]), [terms.challenge_id]),
        )
    await connection.execute(queries.INSERT_EVENTS, (rows.events_to_json(events),))
    asked = {"challenge_id": terms.challenge_id}
    (challenge,) = await (await connection.execute(queries.GET_CHALLENGE, asked)).fetchall()
    cursor = await connection.execute(queries.LIST_TRADES, {**asked, "first": 1, "last": 2**63 - 1, "limit": 1000})
    found = await cursor.fetchall()
    cursor = await connection.execute(
        f"SELECT {queries.EVENT_COLUMNS} FROM challenge_events e WHERE challenge_id = %(challenge_id)s"
        " ORDER BY challenge_sequence",
        asked,
    )
    happened = await cursor.fetchall()
    await connection.rollback()
    return (
        rows.challenge_from_row(challenge),
        [rows.trade_from_row(row, terms, ChallengeEngine()) for row in found],
        [rows.event_from_row(row) for row in happened],
    )


def test_challenges_trades_and_events_come_back_from_postgres_as_they_were(database_url: URL):
    """Any amount, any moment from year 1 to 9999, any label; nothing is committed."""
    with asyncio.Runner() as runner:
        session = sql_session(database_url, autocommit=False)
        connection = runner.run(session.__aenter__())
        runner.run(set_other_conventions(connection))

        @given(
            terms=all_terms,
            pnls_=st.lists(pnls | st.integers(-(10**12), 10**12), max_size=5),
            first=moments,
            ids=st.lists(ascii_text, min_size=5, max_size=5, unique=True),
            symbol=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32),
        )
        @settings(max_examples=80)
        def round_trip(terms, pnls_, first, ids, symbol):
            state, trades, events = lived(terms, pnls_, first, ids, symbol)
            assert runner.run(stored_and_read(connection, state, trades, events)) == (state, trades, events)

        round_trip()
        runner.run(session.__aexit__(None, None, None))


async def set_other_conventions(connection: Connection) -> None:
    """How a session shows moments must not matter."""
    await connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    await connection.execute("SET DateStyle = 'German'")
    await connection.commit()


def test_amounts_enter_as_exact_text():
    trade = Trade("t", parse_amount("-0.00000001"), 0)
    state, _ = ChallengeEngine().create(
        ChallengeTerms("0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f", MAX_AMOUNT, Limits(), "USD", (), 1, 0)
    )
    outcome = ChallengeEngine().decide(state, trade, recorded_at=0)
    text = rows.trades_to_json([(RecordedTrade(trade, outcome.decision, outcome.state.chain_head), MAX_AMOUNT)])
    assert '"realized_pnl":"-0.00000001"' in text
    assert '"equity":"9999999999999999.99999998"' in text
