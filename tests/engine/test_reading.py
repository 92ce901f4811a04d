"""Reading challenges and trades: now, at every earlier moment, and page by page."""

import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from challenge_engine.reading import ChallengeFilter
from challenge_rules import ChallengeStatus, Trade, TradeSubmission
from challenge_rules.errors import ChallengeNotFoundError, SequenceNotFoundError, ValidationError
from challenge_rules.money import parse_amount
from challenge_rules.timestamps import from_datetime
from tests.engine.harness import (
    DAY,
    NOON,
    SECOND,
    RunningEngine,
    make_terms,
    new_id,
    state_in_wire_form,
    submission,
)
from tests.rules.account import evaluation_in_wire_form
from tests.rules.model import ModelChallenge

PENDING, ACTIVE, FAILED, FUNDED = ChallengeStatus
MIDNIGHT = datetime(1970, 1, 1, tzinfo=UTC)
EVERYTHING = ChallengeFilter()


async def every_page(fetch: Callable[[str], Awaitable[tuple[list[Any], str]]]) -> tuple[list[Any], int]:
    """All items over all pages, and the number of pages."""
    found, token, pages = [], "", 0
    while True:
        items, token = await fetch(token)
        found += items
        pages += 1
        if not token:
            return found, pages


class TestOneChallenge:
    @pytest.mark.parametrize("ending", ["-9000", "12000", "1"], ids=["failed", "funded", "active"])
    async def test_at_each_sequence_it_is_what_the_model_was_then(self, engine: RunningEngine, ending: str):
        challenge_id, model = await engine.create(), ModelChallenge("100000")
        snapshots = [(model.snapshot(), [])]
        start = datetime(2025, 1, 2, 23, 59, tzinfo=UTC)
        for number, pnl in enumerate(("0.00000001", "-4000", "3000", "-1999.5", "1200.25", "-0.00000001", ending)):
            at = start + timedelta(hours=7 * number)
            await engine.trading.submit(
                TradeSubmission(challenge_id, Trade(f"t{number}", parse_amount(pnl), from_datetime(at)))
            )
            told = model.submit(f"t{number}", pnl, at)
            snapshots.append((copy.deepcopy(model).snapshot(), told["evaluations"]))
        assert len({snapshot["last_sequence"] for snapshot, _ in snapshots}) == 8
        for sequence, (snapshot, evaluations) in enumerate(snapshots):
            seen = await engine.reader.get(challenge_id, sequence)
            assert state_in_wire_form(seen.state) == snapshot
            assert [evaluation_in_wire_form(row) for row in seen.evaluations] == evaluations
            assert seen.state.event_count == min(1 + sequence, 2) + bool(snapshot["closed_at"])
        assert await engine.reader.get(challenge_id) == await engine.reader.get(challenge_id, 7)

    async def test_a_first_trade_that_ends_it_leaves_nothing_between(self, engine: RunningEngine):
        challenge_id = await engine.create()
        await engine.trading.submit(submission(challenge_id, "t1", "-6000"))
        created, ended = [await engine.reader.get(challenge_id, sequence) for sequence in (0, 1)]
        assert (created.state.status, created.evaluations, created.state.event_count) == (PENDING, (), 1)
        assert (ended.state.status, ended.state.closed_at, ended.state.event_count) == (FAILED, NOON, 3)

    async def test_a_sequence_or_a_challenge_that_is_not_there_is_not_found(self, engine: RunningEngine):
        challenge_id = await engine.create()
        await engine.trading.submit(submission(challenge_id, "t1"))
        for sequence in (2, 10**18):
            with pytest.raises(SequenceNotFoundError):
                await engine.reader.get(challenge_id, sequence)
        for sequence in (None, 0, 1):
            with pytest.raises(ChallengeNotFoundError):
                await engine.reader.get(new_id(), sequence)
        with pytest.raises(ChallengeNotFoundError):
            await engine.reader.list_trades(new_id(), first=1, last=0, limit=10, page_token="")

    async def test_moments_before_1970_and_in_the_years_1_and_9999_are_exact(self, engine: RunningEngine):
        earliest = from_datetime(datetime(1, 1, 1, tzinfo=UTC))
        for first, last in (
            (earliest, earliest + 1),
            (-1, 0),
            (-DAY - 1, -DAY),
            (-DAY, -1),
            (from_datetime(datetime(1582, 10, 4, 23, 59, 59, 999_999, tzinfo=UTC)), NOON),
        ):
            terms = make_terms(created_at=first)
            await engine.trading.create_challenge(terms)
            model = ModelChallenge("100000")
            for trade_id, moment in (("t1", first), ("t2", last)):
                await engine.trading.submit(
                    TradeSubmission(terms.challenge_id, Trade(trade_id, parse_amount("-1"), moment))
                )
                model.submit(trade_id, "-1", MIDNIGHT + timedelta(microseconds=moment))
            seen = await engine.reader.get(terms.challenge_id)
            assert seen.state.terms == terms
            assert state_in_wire_form(seen.state) == model.snapshot()
        far = make_terms(created_at=from_datetime(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)))
        await engine.trading.create_challenge(far)
        assert (await engine.state(far.challenge_id)).terms == far


class TestListingChallenges:
    async def test_they_come_oldest_first_and_filters_are_joined_by_and(self, engine: RunningEngine):
        made: dict[str, str] = {}
        for number, (name, labels, pnl) in enumerate(
            (
                ("pending", (("desk", "1"),), None),
                ("active", (("desk", "1"), ("team", "ü")), "1"),
                ("failed", (("desk", "2"),), "-6000"),
                ("funded", (("desk", "2"), ("team", "ü")), "20000"),
            )
        ):
            made[name] = await engine.create(labels=labels, created_at=NOON - number * DAY)
            if pnl is not None:
                await engine.trading.submit(submission(made[name], "t1", pnl, number))
        names = {challenge_id: name for name, challenge_id in made.items()}
        failed_at, funded_at = NOON + 2 * SECOND, NOON + 3 * SECOND
        for wanted, expected in (
            (EVERYTHING, ["funded", "failed", "active", "pending"]),
            (ChallengeFilter(statuses=(PENDING, FUNDED)), ["funded", "pending"]),
            (ChallengeFilter(labels=(("desk", "1"),)), ["active", "pending"]),
            (ChallengeFilter(labels=(("desk", "2"), ("team", "ü"))), ["funded"]),
            (ChallengeFilter(labels=(("desk", "3"),)), []),
            (ChallengeFilter(labels=(("team", "Ü"),)), []),
            (ChallengeFilter(closed_at_from=failed_at), ["funded", "failed"]),
            (ChallengeFilter(closed_at_from=failed_at + 1), ["funded"]),
            (ChallengeFilter(closed_at_before=funded_at), ["failed"]),
            (ChallengeFilter(closed_at_before=funded_at + 1), ["funded", "failed"]),
            (ChallengeFilter(closed_at_from=failed_at, closed_at_before=failed_at), []),
            (ChallengeFilter(closed_at_from=-DAY, closed_at_before=0), []),
            (ChallengeFilter(statuses=(FAILED,), closed_at_from=0), ["failed"]),
            (ChallengeFilter(statuses=(ACTIVE,), labels=(("desk", "2"),)), []),
        ):
            views, token = await engine.reader.list_challenges(wanted, limit=10, page_token="")
            assert [names[seen.state.terms.challenge_id] for seen in views] == expected
            assert token == ""
            for seen in views:
                assert seen == await engine.reader.get(seen.state.terms.challenge_id)

    @pytest.mark.parametrize(("limit", "pages"), [(1, 7), (2, 4), (3, 3), (7, 1), (100, 1)])
    async def test_pages_join_without_gap_or_repetition(self, engine: RunningEngine, limit: int, pages: int):
        """Also where several were created at the same moment, and before 1970."""
        for created_at in (NOON, NOON, NOON, -1, -1, NOON + 1, -DAY):
            await engine.create(created_at=created_at)
        found, count = await every_page(
            lambda token: engine.reader.list_challenges(EVERYTHING, limit=limit, page_token=token)
        )
        keys = [(seen.state.terms.created_at, seen.state.terms.challenge_id) for seen in found]
        assert keys == sorted(keys)
        assert len(set(keys)) == 7
        assert count == pages

    async def test_a_token_of_another_filter_or_list_is_refused(self, engine: RunningEngine):
        challenge_id = await engine.create(labels=(("a", "1"), ("b", "2")))
        await engine.create(labels=(("a", "1"), ("b", "2")))
        await engine.batch(submission(challenge_id, "t1", "1", 1), submission(challenge_id, "t2", "1", 2))
        one = ChallengeFilter(statuses=(PENDING, ACTIVE), labels=(("a", "1"), ("b", "2")))
        same = ChallengeFilter(statuses=(ACTIVE, PENDING, ACTIVE), labels=(("b", "2"), ("a", "1")))
        _, token = await engine.reader.list_challenges(one, limit=1, page_token="")
        rest, _ = await engine.reader.list_challenges(same, limit=5, page_token=token)
        assert len(rest) == 1
        _, trades_token = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=1, page_token="")
        for other, bad in (
            (EVERYTHING, token),
            (ChallengeFilter(statuses=(PENDING,), labels=one.labels), token),
            (ChallengeFilter(statuses=one.statuses), token),
            (ChallengeFilter(statuses=one.statuses, labels=one.labels, closed_at_from=0), token),
            (ChallengeFilter(statuses=one.statuses, labels=one.labels, closed_at_before=0), token),
            (one, trades_token),
            (one, token[:-1]),
            (one, "…"),
        ):
            with pytest.raises(ValidationError) as refused:
                await engine.reader.list_challenges(other, limit=1, page_token=bad)
            assert [violation.field for violation in refused.value.violations] == ["page_token"]


class TestListingTrades:
    async def test_every_part_of_the_history_by_pages_of_any_size(self, engine: RunningEngine):
        challenge_id = await engine.create()
        batch = [submission(challenge_id, f"t{number}", str(number), number, symbol="BTC") for number in range(1, 11)]
        await engine.trading.submit_batch(batch)
        for first, last, expected in (
            (1, 0, batch),
            (0, 0, batch),
            (4, 7, batch[3:7]),
            (10, 10, batch[9:]),
            (9, 99, batch[8:]),
            (11, 0, []),
            (5, 4, []),
        ):
            for limit in (1, 3, 10, 100):

                async def page(token: str, first: int = first, last: int = last, limit: int = limit):
                    return await engine.reader.list_trades(
                        challenge_id, first=first, last=last, limit=limit, page_token=token
                    )

                found, pages = await every_page(page)
                assert [recorded.trade for recorded in found] == [one.trade for one in expected]
                assert [recorded.decision.sequence for recorded in found] == [batch.index(one) + 1 for one in expected]
                assert pages == max(1, -(-len(expected) // limit))

    async def test_trades_that_come_while_paging_are_seen_at_the_end(self, engine: RunningEngine):
        challenge_id = await engine.create()
        await engine.batch(*(submission(challenge_id, f"t{n}", "1", n) for n in range(1, 4)))
        page, token = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=2, page_token="")
        await engine.trading.submit(submission(challenge_id, "t4", "1", 4))
        rest, end = await engine.reader.list_trades(challenge_id, first=1, last=0, limit=2, page_token=token)
        assert [recorded.decision.sequence for recorded in page + rest] == [1, 2, 3, 4]
        assert end == ""

    async def test_a_token_of_another_list_is_refused(self, engine: RunningEngine):
        one, two = await engine.create(), await engine.create()
        await engine.batch(*(submission(each, f"t{n}", "1", n) for n in range(3) for each in (one, two)))
        _, token = await engine.reader.list_trades(one, first=1, last=0, limit=1, page_token="")
        for challenge_id, first, last in ((two, 1, 0), (one, 2, 0), (one, 1, 3)):
            with pytest.raises(ValidationError):
                await engine.reader.list_trades(challenge_id, first=first, last=last, limit=1, page_token=token)
