"""How a command ends: exit codes, and what is said when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import grpc
import typer

from challenge_client.errors import ChallengeError, TransportError
from challenge_client.retries import passes


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    REFUSED = 1
    """The server refused what was asked for."""
    USAGE = 2
    """The command or a file is wrong; nothing was sent."""
    UNREACHABLE = 3
    """No answer: the server is away or too slow. What was sent may or may not be recorded."""
    PARTLY = 4
    """An import went through, but rows of the file were refused."""


class UsageError(Exception):
    """The command cannot be carried out as given; the message says what is allowed."""


@contextmanager
def explained(target: str) -> Iterator[None]:
    """Turns failures into a message on standard error and an exit code."""
    try:
        yield
    except UsageError as error:
        _fail(str(error), Exit.USAGE)
    except TransportError as error:
        _fail(_about_transport(error, target), Exit.UNREACHABLE)
    except ChallengeError as error:
        _fail(str(error), Exit.UNREACHABLE if passes(error) else Exit.REFUSED)
    except (TypeError, ValueError) as error:
        _fail(str(error), Exit.USAGE)


def _about_transport(error: TransportError, target: str) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"no server answers at {target} (tried {error.attempts} times): {error.message}\n"
            "Is it running? `challenge-engine serve` starts one; --target or CHALLENGE_TARGET names another."
        )
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{target} did not answer in time; --timeout gives it longer. What was sent may or may not be recorded."
    return str(error)


def _fail(message: str, code: Exit) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(code)
