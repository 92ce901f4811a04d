"""What is stored can be decided again, years later, bit for bit."""

import random

from challenge_engine import queries, rows
from challenge_rules import ChallengeEngine, ChallengeRulesEngine
from challenge_rules.money import format_amount
from tests.engine.harness import RunningEngine, running_engine, sql, submission


async def written(engine: RunningEngine) -> list[str]:
    """A dozen challenges of all fates, traded in batches with refusals and replays among them."""
    dice = random.Random(3)
    challenges = [await engine.create(dice.choice(("100000", "0.01", "9999999999999999.99999999"))) for _ in range(12)]
    for round_ in range(8):
        await engine.batch(
            *(
                submission(
                    challenge_id,
                    f"t{dice.randint(0, 40)}",
                    format_amount(dice.randint(-(10 ** dice.randint(1, 12)), 10 ** dice.randint(1, 12))),
                    round_ * 40_000 + number,
                    symbol=dice.choice(("", "BTC", "a 'quoted' \\ one")),
                )
                for number in range(6)
                for challenge_id in challenges
            )
        )
    return challenges


async def test_replaying_the_stored_trades_gives_the_stored_decisions_states_and_events(database_url):
    async with running_engine(database_url, max_group=50) as engine:
        challenges = await written(engine)
        fates = set()
        for challenge_id in challenges:
            found = await sql(
                database_url,
                f"SELECT {queries.EVENT_COLUMNS} FROM challenge_events e WHERE challenge_id = %s"
                " ORDER BY challenge_sequence",
                (challenge_id,),
            )
            stored_events = [rows.event_from_row(row) for row in found]
            terms = stored_events[0].terms
            assert terms is not None
            pure = ChallengeEngine(ChallengeRulesEngine(terms.rules_version))
            state, created = pure.create(terms)
            events = [created]
            stored, _ = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=10_000, page_token="")
            for recorded in stored:
                assert recorded.decision.recorded_at is not None
                outcome = pure.decide(state, recorded.trade, recorded_at=recorded.decision.recorded_at)
                assert outcome.decision == recorded.decision
                state = outcome.state
                events.extend(outcome.events)
                assert (await engine.reader.get(challenge_id, state.last_sequence)).state.equity == state.equity
            assert state == await engine.state(challenge_id)
            assert events == stored_events
            fates.add(state.status)
        assert len(fates) >= 2
