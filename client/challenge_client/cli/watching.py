"""A table of challenges that follows what happens: equity, its course, and how far each limit is away."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from challenge_client.async_client import AsyncChallengeClient
from challenge_client.cli.outcomes import UsageError
from challenge_client.cli.output import coloured, event_line, meter, number, sparkline
from challenge_client.enums import ChallengeStatus
from challenge_client.errors import ChallengeError
from challenge_client.retries import is_undecided
from challenge_client.values import Challenge, ChallengeEvent

POINTS = 32
SHOWN_EVENTS = 6
MAX_WATCHED = 40
"""As many fit a screen, and so many calls a look costs."""


@dataclass(slots=True)
class Watched:
    """One challenge and its latest equities."""

    challenge: Challenge
    equities: deque[Decimal] = field(default_factory=lambda: deque(maxlen=POINTS))
    known_sequence: int = 0


class Watch:
    """What is on the screen."""

    def __init__(self, client: AsyncChallengeClient, ids: Sequence[str]) -> None:
        if len(ids) > MAX_WATCHED:
            raise UsageError(f"at most {MAX_WATCHED} challenges can be watched, got {len(ids)}")
        self._client = client
        self._ids = list(ids)
        self._trouble: ChallengeError | None = None
        self._watched: dict[str, Watched] = {}
        self._events: deque[ChallengeEvent] = deque(maxlen=SHOWN_EVENTS)

    def take(self, event: ChallengeEvent) -> None:
        """Note an event."""
        self._events.append(event)

    async def look_again(self) -> list[Challenge]:
        """The same as `look`; when the server does not answer, what is shown stays, and a line says so."""
        try:
            return await self.look()
        except ChallengeError as error:
            if not is_undecided(error):
                raise
            self._trouble = error
            return []

    async def look(self) -> list[Challenge]:
        """Read every challenge, and the trades that are new; those that have changed since the last look."""
        changed: list[Challenge] = []
        for ident in self._ids or [found.challenge_id for found in await self._newest()]:
            challenge = await self._client.get_challenge(ident)
            known = self._watched.get(challenge.challenge_id)
            if known is None or known.challenge.version != challenge.version:
                changed.append(challenge)
            watched = self._watched.setdefault(challenge.challenge_id, Watched(challenge))
            watched.challenge = challenge
            if not watched.equities:
                watched.equities.append(challenge.initial_balance)
                watched.known_sequence = max(0, challenge.last_sequence - POINTS)
            if challenge.last_sequence > watched.known_sequence:
                first = max(watched.known_sequence, challenge.last_sequence - POINTS) + 1
                async for recorded in self._client.list_trades(ident, from_sequence=first, page_size=POINTS):
                    watched.equities.append(recorded.decision.equity)
                    watched.known_sequence = recorded.decision.sequence
        self._trouble = None
        return changed

    def render(self) -> RenderableType:
        """The table, and the latest events below it."""
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        for name, justify in (("challenge", "left"), ("status", "left"), ("equity", "right"), ("course", "left")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a literal
        for name in ("daily drawdown", "total drawdown", "profit target"):
            table.add_column(name, no_wrap=True)
        for watched in self._watched.values():
            challenge = watched.challenge
            meters = [meter(evaluation) for evaluation in challenge.evaluations] or [Text("–", style="dim")] * 3
            table.add_row(
                _name(challenge),
                coloured(challenge.status),
                number(challenge.equity, 2),
                Text(sparkline(watched.equities), style=_colour(challenge)),
                *meters,
            )
        if not self._watched:
            return Text(
                "No challenge is open. Name some, or create one: challenge create --balance 100000", style="dim"
            )
        below = [event_line(event) for event in self._events]
        if self._trouble is not None:
            below.append(Text(f"no answer, as it was before: {self._trouble.message}", style="bold yellow"))
        return Group(table, Text(""), *below) if below else Group(table)

    async def _newest(self) -> list[Challenge]:
        """Those that are watched, also when they have ended, and the newest open ones as far as there is room."""
        statuses = (ChallengeStatus.PENDING, ChallengeStatus.ACTIVE)
        found = [challenge async for challenge in self._client.list_challenges(statuses=statuses, page_size=1000)]
        known = [watched.challenge for watched in self._watched.values()]
        fresh = [challenge for challenge in found if challenge.challenge_id not in self._watched]
        places = max(0, MAX_WATCHED - len(known))
        return [*known, *fresh[len(fresh) - min(places, len(fresh)) :]]


def _name(challenge: Challenge) -> Text:
    name = challenge.labels.get("account") or challenge.challenge_id
    return Text(name if len(name) <= 14 else f"{name[:8]}…{name[-4:]}")


def _colour(challenge: Challenge) -> str:
    return "green" if challenge.equity >= challenge.initial_balance else "red"
