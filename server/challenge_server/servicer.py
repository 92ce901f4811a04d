"""The service of the contract: each method decodes, asks the engine, encodes."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from challenge_engine.event_log import BEGINNING, Cursors, EventFilter, EventLog, Place
from challenge_engine.event_tail import EventTail
from challenge_engine.ids import uuid7
from challenge_engine.reading import ChallengeReader, ChallengeView, view
from challenge_engine.submissions import Answer
from challenge_engine.trading import TradingService
from challenge_rules import ChallengeError, TradeSubmission
from challenge_rules.errors import DrainingError, FieldViolation, ValidationError
from challenge_rules.validation import FieldChecks
from challenge_server import wire
from challenge_server.event_encoding import EventEncoder
from challenge_wire import messages, statuses
from propfirm.challenge.v1 import challenge_pb2 as pb

logger = logging.getLogger(__name__)

MAX_LOGGED_ID = 80


class ChallengeServicer:
    """Implements every method of `ChallengeService`. Raises `ChallengeError`; `handlers` turns that into statuses."""

    def __init__(
        self,
        trading: TradingService,
        reader: ChallengeReader,
        log: EventLog,
        tail: EventTail,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._trading = trading
        self._reader = reader
        self._log = log
        self._tail = tail
        self._encoder = EventEncoder()
        self._clock = clock
        self.draining = False

    async def CreateChallenge(self, request: pb.CreateChallengeRequest) -> pb.CreateChallengeResponse:
        """Make a challenge."""
        now = self._clock()
        terms = messages.terms_from(request, new_id=uuid7(now), now=now)
        state, replayed = await self._trading.create_challenge(terms)
        return pb.CreateChallengeResponse(challenge=_challenge_to(view(state)), replayed=replayed)

    async def SubmitTrade(self, request: pb.SubmitTradeRequest) -> pb.SubmitTradeResponse:
        """Decide one trade."""
        try:
            decision = await self._trading.submit(messages.submission_from(request))
        except ChallengeError as error:
            _log_refused(request, error)
            raise
        response = pb.SubmitTradeResponse()
        messages.fill_decision(response.decision, decision)
        return response

    async def BatchSubmitTrades(self, request: pb.BatchSubmitTradesRequest) -> pb.BatchSubmitTradesResponse:
        """Decide many trades; a bad one is one rejection."""
        checks = FieldChecks()
        checks.at_most(len(request.trades), messages.MAX_BATCH, "trades")
        checks.raise_if_any()
        read = [_read_submission(trade, f"trades[{index}].") for index, trade in enumerate(request.trades)]
        answers = iter(await self._trading.submit_batch([item for item in read if isinstance(item, TradeSubmission)]))
        response = pb.BatchSubmitTradesResponse()
        for trade, item in zip(request.trades, read, strict=True):
            answer: Answer = next(answers) if isinstance(item, TradeSubmission) else item
            if isinstance(answer, ChallengeError):
                _log_refused(trade, answer)
                response.results.add(rejection=statuses.to_rejection(answer))
            else:
                messages.fill_decision(response.results.add().decision, answer)
        return response

    async def GetChallenge(self, request: pb.GetChallengeRequest) -> pb.GetChallengeResponse:
        """Answer a challenge, now or as it was."""
        checks = FieldChecks()
        challenge_id = checks.challenge_id(request.challenge_id)
        at_sequence = None
        if request.HasField("at_sequence"):
            at_sequence = checks.not_negative(request.at_sequence, "at_sequence")
        checks.raise_if_any()
        return pb.GetChallengeResponse(challenge=_challenge_to(await self._reader.get(challenge_id, at_sequence)))

    async def ListChallenges(self, request: pb.ListChallengesRequest) -> pb.ListChallengesResponse:
        """List challenges."""
        checks = FieldChecks()
        wanted = wire.challenge_filter_from(request, checks)
        limit = messages.page_size_from(request.page_size, checks)
        checks.raise_if_any()
        views, token = await self._reader.list_challenges(wanted, limit=limit, page_token=request.page_token)
        return pb.ListChallengesResponse(challenges=map(_challenge_to, views), next_page_token=token)

    async def ListTrades(self, request: pb.ListTradesRequest) -> pb.ListTradesResponse:
        """List the trades of a challenge."""
        checks = FieldChecks()
        challenge_id = checks.challenge_id(request.challenge_id)
        first = checks.not_negative(request.from_sequence, "from_sequence")
        last = checks.not_negative(request.to_sequence, "to_sequence")
        limit = messages.page_size_from(request.page_size, checks)
        checks.raise_if_any()
        trades, token = await self._reader.list_trades(
            challenge_id, first=first, last=last, limit=limit, page_token=request.page_token
        )
        return pb.ListTradesResponse(trades=map(messages.recorded_trade_to, trades), next_page_token=token)

    async def ListEvents(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """List events by position."""
        checks = FieldChecks()
        challenge_ids = (checks.challenge_id(request.challenge_id),) if request.challenge_id else ()
        wanted = EventFilter(challenge_ids, messages.statuses_from(request.new_statuses, "new_statuses", checks))
        after = checks.not_negative(request.after_position, "after_position")
        limit = messages.page_size_from(request.page_size, checks)
        checks.raise_if_any()
        page, token = await self._log.page(wanted, after=after, limit=limit, page_token=request.page_token)
        return pb.ListEventsResponse(events=map(wire.event_to, page.events), next_page_token=token)

    async def StreamEvents(self, request: pb.StreamEventsRequest) -> AsyncGenerator[bytes]:
        """Follow events; ends with a heartbeat and DRAINING when the server stops. The messages come encoded."""
        checks = FieldChecks()
        wanted = EventFilter(*messages.event_filter_from(request.challenge_ids, request.new_statuses, checks))
        heartbeat_s = messages.heartbeat_from(request, checks)
        events_per_message = messages.events_per_message_from(request.max_events_per_message, checks)
        start = messages.start_from(request, checks)
        checks.raise_if_any()
        async with self._tail.starting():
            if self.draining:
                raise DrainingError
            end = await self._log.end()
            after = await self._start(request, wanted, end.place)
        cursors = Cursors(end.log_id, wanted)
        following = self._tail.follow(
            wanted,
            log_id=end.log_id,
            after=after,
            end=end.place.position,
            heartbeat_s=heartbeat_s,
            from_now=start == "from_now",
            stopping=lambda: self.draining,
        )
        async with aclosing(following) as items:
            async for item in items:
                for message in self._encoder.messages(item, cursors, events_per_message):
                    yield message
        raise DrainingError("the server is shutting down; follow on from another, after the last cursor")

    async def _start(self, request: pb.StreamEventsRequest, wanted: EventFilter, end: Place) -> Place:
        """The place after which a stream begins."""
        match request.WhichOneof("start"):
            case "after_cursor":
                return await self._log.place_of(wanted, request.after_cursor)
            case "from_beginning":
                return BEGINNING
            case "from_now":
                return end
        place = await self._log.place_at(request.after_position) if request.after_position >= 0 else None
        if place is None:
            description = f"must be 0 to {end.position}, the last position; got {request.after_position}"
            raise ValidationError([FieldViolation("after_position", description)])
        return place


def _challenge_to(shown: ChallengeView) -> pb.Challenge:
    return messages.challenge_to(shown.state, shown.evaluations)


def _read_submission(request: pb.SubmitTradeRequest, prefix: str) -> TradeSubmission | ValidationError:
    try:
        return messages.submission_from(request, prefix)
    except ValidationError as error:
        return error


def _log_refused(request: pb.SubmitTradeRequest, error: ChallengeError) -> None:
    """One line for each refused trade. What the caller sent is shown escaped, so that it cannot forge a line."""
    logger.info(
        "refused trade challenge_id=%s trade_id=%s reason=%s: %s",
        ascii(request.challenge_id[:MAX_LOGGED_ID]),
        ascii(request.trade.trade_id[:MAX_LOGGED_ID]),
        error.reason.value,
        error.message,
    )
