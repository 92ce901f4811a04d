"""In-process news of what has been committed."""

import logging
from collections.abc import Callable

from challenge_rules import ChallengeEvent

logger = logging.getLogger(__name__)

Handler = Callable[[ChallengeEvent], None]


class EventBus:
    """Emits events to the handlers that subscribed, after commit and in order.

    A handler is called on the event loop and must not block. One that fails is logged and stops nothing. The bus is a
    convenience inside the process; the table of events is the truth.
    """

    def __init__(self) -> None:
        self._handlers: list[Handler] = []

    def subscribe(self, handler: Handler) -> Callable[[], None]:
        """Call `handler` with every event from now on; returns the function that ends this."""
        self._handlers.append(handler)

        def unsubscribe() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return unsubscribe

    def emit(self, event: ChallengeEvent) -> None:
        """Hand an event to every handler."""
        for handler in tuple(self._handlers):
            try:
                handler(event)
            except Exception:
                logger.exception(
                    "an event handler failed on event %s of challenge %s", event.challenge_sequence, event.challenge_id
                )
