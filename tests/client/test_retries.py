"""Which failures are tried again, and when."""

from datetime import timedelta

import grpc
import pytest

from challenge_client import ChallengeError, TransportError
from challenge_client.retries import FIRST_DELAY_S, MAX_DELAY_S, Attempts, describe, is_undecided, passes
from challenge_client.statuses import ERROR_CLASSES

Code = grpc.StatusCode
AGAIN = "WRITE_CONFLICT PREDECESSOR_FAILED OVERLOADED DATABASE_UNAVAILABLE DRAINING OUTCOME_UNKNOWN".split()
CODES = {
    "VALIDATION_FAILED": Code.INVALID_ARGUMENT, "CHALLENGE_NOT_FOUND": Code.NOT_FOUND,
    "SEQUENCE_NOT_FOUND": Code.NOT_FOUND, "CHALLENGE_EXISTS": Code.ALREADY_EXISTS,
    "TRADE_ID_REUSED": Code.ALREADY_EXISTS, "CHALLENGE_TERMINAL": Code.FAILED_PRECONDITION,
    "TRADE_OUT_OF_ORDER": Code.FAILED_PRECONDITION, "TRADE_IN_FUTURE": Code.INVALID_ARGUMENT,
    "EQUITY_OUT_OF_RANGE": Code.OUT_OF_RANGE, "SEQUENCE_MISMATCH": Code.ABORTED, "PREDECESSOR_FAILED": Code.ABORTED,
    "WRITE_CONFLICT": Code.ABORTED, "OVERLOADED": Code.RESOURCE_EXHAUSTED, "DATABASE_UNAVAILABLE": Code.UNAVAILABLE,
    "DRAINING": Code.UNAVAILABLE, "OUTCOME_UNKNOWN": Code.UNAVAILABLE, "CURSOR_MISMATCH": Code.INVALID_ARGUMENT,
    "CHALLENGE_ARCHIVED": Code.FAILED_PRECONDITION, "INTERNAL": Code.INTERNAL,
}  # fmt: skip


def error(reason, **facts):
    return ERROR_CLASSES[reason]("no", code=CODES[reason], **facts)


def begun(**options):
    """Attempts of which the first has begun at 100 s."""
    attempts = Attempts(**({"timeout_s": 10} | options))
    attempts.begin(100)
    return attempts


@pytest.mark.parametrize("reason", sorted(ERROR_CLASSES))
def test_a_reason_passes_or_it_does_not(reason):
    assert passes(error(reason)) is (reason in AGAIN)


@pytest.mark.parametrize("reason", sorted(ERROR_CLASSES))
def test_a_trade_is_undecided_when_machinery_failed_and_not_when_it_was_refused(reason):
    assert is_undecided(error(reason)) is (reason in [*AGAIN, "INTERNAL"])


@pytest.mark.parametrize("code", list(Code))
def test_of_what_grpc_itself_says_only_unavailable_passes(code):
    assert passes(TransportError("no", code=code)) is (code is Code.UNAVAILABLE)


@pytest.mark.parametrize("code", list(Code))
def test_a_trade_that_grpc_itself_failed_is_undecided_whatever_the_code(code):
    """A proxy that answers 404 has refused nothing: later trades of the challenge have to wait."""
    assert is_undecided(TransportError("no", code=code))


@pytest.mark.parametrize(
    ("first", "last", "open_"),
    [
        ("OUTCOME_UNKNOWN", "DATABASE_UNAVAILABLE", True),
        ("DRAINING", "DATABASE_UNAVAILABLE", False),
        ("OUTCOME_UNKNOWN", "CHALLENGE_TERMINAL", False),
    ],
)
def test_an_error_tells_when_an_earlier_attempt_may_have_been_recorded(first, last, open_):
    """A refusal says that it was not: a recorded trade would have been answered by its decision."""
    attempts = begun()
    attempts.delay_s(error(first), 100, 0)
    attempts.begin(101)
    final = error(last)
    describe(final, "SubmitTrade", None, attempts)
    assert final.may_be_recorded is open_
    assert ("may have been recorded" in str(final)) is open_
    assert ("Nothing was written" in str(final)) is (not open_ and last == "DATABASE_UNAVAILABLE")


def test_a_reason_that_only_a_newer_server_knows_passes_by_its_code():
    assert passes(ChallengeError("no", reason="NEWER", code=Code.UNAVAILABLE))
    assert not passes(ChallengeError("no", reason="NEWER", code=Code.ABORTED))


def test_the_first_attempt_sets_the_deadline_and_each_later_one_has_what_is_left():
    attempts = Attempts(timeout_s=10)
    assert [attempts.begin(now_s) for now_s in (100, 104, 109.5, 111)] == [10, 6, 0.5, 0]
    assert attempts.count == 4


def test_the_wait_doubles_up_to_a_bound_and_chance_takes_up_to_a_half():
    attempts = begun(timeout_s=1e9)
    found = []
    for _ in range(1100):
        found.append([attempts.delay_s(error("DRAINING"), 100, chance) for chance in (0.0, 1.0)])
        attempts.begin(100)
    for number, (longest, shortest) in enumerate(found):
        assert longest == min(FIRST_DELAY_S * 2.0 ** min(number, 100), MAX_DELAY_S)
        assert shortest == longest / 2


def test_nobody_is_asked_again_before_the_server_allows():
    overloaded = error("OVERLOADED", retry_after=timedelta(seconds=3))
    assert begun().delay_s(overloaded, 100, 0.5) == 3
    assert begun().delay_s(overloaded, 107, 0.5) is None


def test_nothing_is_tried_after_the_deadline_nor_more_often_than_allowed():
    assert begun().delay_s(error("DRAINING"), 109.99, 0) is None
    assert begun(max_attempts=1).delay_s(error("DRAINING"), 100, 0) is None
    assert begun(max_attempts=2).delay_s(error("DRAINING"), 100, 0) is not None
