"""Every refusal is a `ChallengeError` with a reason of its own, metadata for programs and a message for people."""

import pytest

from challenge_rules import ChallengeError, ErrorReason, errors
from challenge_rules.errors import FieldViolation, InternalError, OverloadedError, ValidationError

# The reasons of DESIGN.md's error table.
REASONS = {
    "VALIDATION_FAILED": errors.ValidationError,
    "CHALLENGE_NOT_FOUND": errors.ChallengeNotFoundError,
    "SEQUENCE_NOT_FOUND": errors.SequenceNotFoundError,
    "CHALLENGE_EXISTS": errors.ChallengeExistsError,
    "TRADE_ID_REUSED": errors.TradeIdReusedError,
    "CHALLENGE_TERMINAL": errors.ChallengeTerminalError,
    "TRADE_OUT_OF_ORDER": errors.TradeOutOfOrderError,
    "TRADE_IN_FUTURE": errors.TradeInFutureError,
    "EQUITY_OUT_OF_RANGE": errors.EquityOutOfRangeError,
    "SEQUENCE_MISMATCH": errors.SequenceMismatchError,
    "PREDECESSOR_FAILED": errors.PredecessorFailedError,
    "WRITE_CONFLICT": errors.WriteConflictError,
    "OVERLOADED": errors.OverloadedError,
    "DATABASE_UNAVAILABLE": errors.DatabaseUnavailableError,
    "DRAINING": errors.DrainingError,
    "OUTCOME_UNKNOWN": errors.OutcomeUnknownError,
    "CURSOR_MISMATCH": errors.CursorMismatchError,
    "CHALLENGE_ARCHIVED": errors.ChallengeArchivedError,
    "INTERNAL": errors.InternalError,
}
PLAIN = [cls for cls in REASONS.values() if cls not in {ValidationError, OverloadedError, InternalError}]


def test_the_reasons_are_those_of_the_design_and_nothing_else():
    assert [str(reason) for reason in ErrorReason] == list(REASONS)


@pytest.mark.parametrize(("name", "cls"), REASONS.items())
def test_each_reason_has_one_error_and_each_error_one_reason(name, cls):
    assert cls.reason == ErrorReason(name)
    assert [sub for sub in ChallengeError.__subclasses__() if sub.reason == name] == [cls]


@pytest.mark.parametrize("cls", REASONS.values())
def test_every_error_is_a_value_error(cls):
    assert issubclass(cls, ChallengeError)
    assert issubclass(cls, ValueError)


def test_every_error_stands_in_the_tree_at_the_top_of_the_module():
    for cls in ChallengeError.__subclasses__():
        assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("cls", PLAIN)
def test_an_errors_docstring_is_its_default_message(cls):
    error = cls()
    assert f"{error.message}." == cls.__doc__
    assert str(error) == error.message
    assert error.metadata == {}


@pytest.mark.parametrize("cls", PLAIN)
def test_a_message_of_its_own_replaces_the_default_and_metadata_is_kept(cls):
    error = cls("told otherwise", status="FAILED", next_sequence="3")
    assert str(error) == error.message == "told otherwise"
    assert error.metadata == {"status": "FAILED", "next_sequence": "3"}


def test_a_validation_error_lists_every_bad_field():
    violations = [FieldViolation("a.b", "must be set"), FieldViolation("c", "must not be negative")]
    error = ValidationError(iter(violations))
    assert error.violations == tuple(violations)
    assert str(error) == "a.b: must be set; c: must not be negative"


def test_an_overload_says_when_to_try_again():
    error = OverloadedError(1.5)
    assert error.retry_after_s == 1.5
    assert f"{error.message}." == OverloadedError.__doc__


def test_an_internal_error_gives_away_nothing_but_the_id_to_find_in_the_log():
    error = InternalError("7f3a")
    assert error.metadata == {"error_id": "7f3a"}
    assert f"{error.message}." == InternalError.__doc__
