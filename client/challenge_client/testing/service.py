"""Every method of the contract, answered from memory. Raises the rules' errors; `server` makes statuses of them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from challenge_client.testing.memory import EventFilter, Memory, page_start, page_token
from challenge_rules import ChallengeEngine, ChallengeError, ChallengeEvent, ChallengeState, ChallengeStatus
from challenge_rules.errors import DrainingError, FieldViolation, ValidationError
from challenge_rules.money import format_amount
from challenge_rules.validation import FieldChecks
from challenge_wire import messages, statuses
from propfirm.challenge.v1 import challenge_pb2 as pb

_ItemT = TypeVar("_ItemT")


class FakeService:
    """The service itself."""

    def __init__(self, memory: Memory, new_id: Callable[[], str]) -> None:
        self._memory = memory
        self._new_id = new_id
        self._engine = ChallengeEngine()
        self._draining = False

    def drain(self) -> None:
        """Let every stream end, and every call be refused."""
        with self._memory.changed:
            self._draining = True
            self._memory.changed.notify_all()

    def CreateChallenge(self, request: pb.CreateChallengeRequest) -> pb.CreateChallengeResponse:  # noqa: N802
        """Make a challenge."""
        self._check_open()
        terms = messages.terms_from(request, new_id=self._new_id(), now=self._memory.now())
        state, replayed = self._memory.create(terms)
        return pb.CreateChallengeResponse(challenge=self._challenge(state), replayed=replayed)

    def SubmitTrade(self, request: pb.SubmitTradeRequest) -> pb.SubmitTradeResponse:  # noqa: N802
        """Decide one trade."""
        self._check_open()
        (answer,) = self._memory.submit([messages.submission_from(request)])
        if isinstance(answer, ChallengeError):
            raise answer
        response = pb.SubmitTradeResponse()
        messages.fill_decision(response.decision, answer)
        return response

    def BatchSubmitTrades(self, request: pb.BatchSubmitTradesRequest) -> pb.BatchSubmitTradesResponse:  # noqa: N802
        """Decide many trades."""
        self._check_open()
        checks = FieldChecks()
        checks.at_most(len(request.trades), messages.MAX_BATCH, "trades")
        checks.raise_if_any()
        response = pb.BatchSubmitTradesResponse()
        for index, trade in enumerate(request.trades):
            try:
                (answer,) = self._memory.submit([messages.submission_from(trade, f"trades[{index}].")])
            except ValidationError as error:
                answer = error
            if isinstance(answer, ChallengeError):
                response.results.add(rejection=statuses.to_rejection(answer))
            else:
                messages.fill_decision(response.results.add().decision, answer)
        return response

    def GetChallenge(self, request: pb.GetChallengeRequest) -> pb.GetChallengeResponse:  # noqa: N802
        """Answer a challenge, now or as it was."""
        checks = FieldChecks()
        challenge_id = checks.challenge_id(request.challenge_id)
        at_sequence = None
        if request.HasField("at_sequence"):
            at_sequence = checks.not_negative(request.at_sequence, "at_sequence")
        checks.raise_if_any()
        return pb.GetChallengeResponse(challenge=self._challenge(self._memory.get(challenge_id, at_sequence)))

    def ListChallenges(self, request: pb.ListChallengesRequest) -> pb.ListChallengesResponse:  # noqa: N802
        """List challenges."""
        checks = FieldChecks()
        wanted = set(messages.statuses_from(request.statuses, "statuses", checks))
        labels = dict(checks.labels(request.labels))
        closed_from = messages.optional_moment(request, "closed_at_from", checks)
        closed_before = messages.optional_moment(request, "closed_at_before", checks)
        limit = messages.page_size_from(request.page_size, checks)
        checks.raise_if_any()
        scope = ["challenges", sorted(wanted), labels, closed_from, closed_before]

        def matches(state: ChallengeState) -> bool:
            return (
                (not wanted or state.status in wanted)
                and labels.items() <= dict(state.terms.labels).items()
                and (closed_from is None or (state.closed_at is not None and state.closed_at >= closed_from))
                and (closed_before is None or (state.closed_at is not None and state.closed_at < closed_before))
            )

        found = [state for state in self._memory.challenges() if matches(state)]
        page, token = _page(found, _created, scope, limit, request.page_token)
        return pb.ListChallengesResponse(challenges=map(self._challenge, page), next_page_token=token)

    def ListTrades(self, request: pb.ListTradesRequest) -> pb.ListTradesResponse:  # noqa: N802
        """List the trades of a challenge."""
        checks = FieldChecks()
        challenge_id = checks.challenge_id(request.challenge_id)
        first = checks.not_negative(request.from_sequence, "from_sequence")
        last = checks.not_negative(request.to_sequence, "to_sequence")
        limit = messages.page_size_from(request.page_size, checks)
        checks.raise_if_any()
        trades = self._memory.trades(challenge_id)[max(first - 1, 0) : last or None]
        scope = ["trades", challenge_id, first, last]
        page, token = _page(trades, lambda trade: trade.decision.sequence, scope, limit, request.page_token)
        return pb.ListTradesResponse(trades=map(messages.recorded_trade_to, page), next_page_token=token)

    def ListEvents(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:  # noqa: N802
        """List events by position."""
        checks = FieldChecks()
        challenge_ids = (checks.challenge_id(request.challenge_id),) if request.challenge_id else ()
        wanted = EventFilter(challenge_ids, messages.statuses_from(request.new_statuses, "new_statuses", checks))
        after = checks.not_negative(request.after_position, "after_position")
        limit = messages.page_size_from(request.page_size, checks)
        checks.raise_if_any()
        scope = ["events", wanted.scope(), after]
        start = page_start(scope, request.page_token) if request.page_token else after
        found, _ = self._memory.events(wanted, start, limit + 1)
        token = page_token(scope, found[limit - 1][0]) if len(found) > limit else ""
        return pb.ListEventsResponse(events=[_event(*each) for each in found[:limit]], next_page_token=token)

    def StreamEvents(  # noqa: N802
        self, request: pb.StreamEventsRequest, is_active: Callable[[], bool]
    ) -> Iterator[pb.StreamEventsResponse]:
        """Follow events; ends with a heartbeat and DRAINING when the server stops."""
        checks = FieldChecks()
        wanted = EventFilter(*messages.event_filter_from(request.challenge_ids, request.new_statuses, checks))
        heartbeat_s = messages.heartbeat_from(request, checks)
        together = messages.events_per_message_from(request.max_events_per_message, checks)
        start = messages.start_from(request, checks)
        checks.raise_if_any()
        self._check_open()
        position = self._position_of(request, start, wanted)

        def message() -> pb.StreamEventsResponse:
            return pb.StreamEventsResponse(cursor=self._memory.cursor(wanted, position))

        told_caught_up = False
        told_at = time.monotonic()
        while is_active():
            found, end = self._memory.events(wanted, position, together)
            if found:
                position = found[-1][0]
                told = message()
                if together > 1:
                    told.events.events.extend(_event(*each) for each in found)
                else:
                    told.event.CopyFrom(_event(*found[0]))
                yield told
                told_at = time.monotonic()
                continue
            position = end
            if not told_caught_up:
                told_caught_up = True
                told = message()
                told.caught_up.position = position
                yield told
                told_at = time.monotonic()
            silence_left_s = told_at + heartbeat_s - time.monotonic()
            if silence_left_s <= 0 or self._draining:
                told = message()
                told.heartbeat.position = position
                yield told
                told_at = time.monotonic()
                self._check_open()
                continue
            with self._memory.changed:
                if not self._draining and is_active() and self._memory.end == position:
                    self._memory.changed.wait(silence_left_s)

    def _position_of(self, request: pb.StreamEventsRequest, start: str | None, wanted: EventFilter) -> int:
        end = self._memory.end
        if start == "from_beginning":
            return 0
        if start == "from_now":
            return end
        if start == "after_cursor":
            return self._memory.position_of(wanted, request.after_cursor)
        if not 0 <= request.after_position <= end:
            description = f"must be 0 to {end}, the last position; got {request.after_position}"
            raise ValidationError([FieldViolation("after_position", description)])
        return request.after_position

    def _challenge(self, state: ChallengeState) -> pb.Challenge:
        if state.status is ChallengeStatus.PENDING:
            return messages.challenge_to(state, ())
        return messages.challenge_to(state, self._engine.evidence(state.terms, state).evaluations)

    def _check_open(self) -> None:
        if self._draining:
            raise DrainingError


def _created(state: ChallengeState) -> list[Any]:
    return [state.terms.created_at, state.terms.challenge_id]


def _page(
    items: list[_ItemT], key: Callable[[_ItemT], Any], scope: object, limit: int, token: str
) -> tuple[list[_ItemT], str]:
    """A page, and the token of the next: what has changed in between neither skips nor repeats an item."""
    if token:
        start = page_start(scope, token)
        items = [item for item in items if key(item) > start]
    return items[:limit], page_token(scope, key(items[limit - 1])) if len(items) > limit else ""


def _event(position: int, event: ChallengeEvent) -> pb.ChallengeEvent:
    message = pb.ChallengeEvent(
        position=position,
        challenge_id=event.challenge_id,
        challenge_sequence=event.challenge_sequence,
        event_type=f"EVENT_TYPE_{event.event_type.name}",
        old_status=None if event.old_status is None else messages.STATUS_TO_WIRE[event.old_status],
        new_status=messages.STATUS_TO_WIRE[event.new_status],
        reason=messages.rule_to(event.reason),
        trade_id=event.trade_id or "",
        trade_sequence=event.trade_sequence or 0,
        equity=format_amount(event.equity),
        evaluations=messages.evaluations_to(event.evaluations),
        occurred_at=messages.timestamp(event.occurred_at),
        recorded_at=messages.timestamp(event.recorded_at),
    )
    if event.terms is not None:
        message.terms.CopyFrom(
            pb.ChallengeTerms(
                initial_balance=format_amount(event.terms.initial_balance),
                limits=messages.limits_to(event.terms.limits),
                currency_code=event.terms.currency_code,
                labels=dict(event.terms.labels),
                rules_version=event.terms.rules_version,
                created_at=messages.timestamp(event.terms.created_at),
            )
        )
    return message
