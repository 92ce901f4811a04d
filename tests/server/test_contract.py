"""The contract has every name that other people's programs depend on, and says the same as the code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from challenge_rules import ChallengeStatus, ErrorReason, EventType, Rule
from challenge_wire.statuses import CODES
from propfirm.challenge.v1 import challenge_pb2 as pb

FILE = pb.DESCRIPTOR
BUF = str(Path(sys.executable).parent / "buf")

RPCS = {
    "CreateChallenge": ("CreateChallengeRequest", "CreateChallengeResponse", False),
    "SubmitTrade": ("SubmitTradeRequest", "SubmitTradeResponse", False),
    "BatchSubmitTrades": ("BatchSubmitTradesRequest", "BatchSubmitTradesResponse", False),
    "GetChallenge": ("GetChallengeRequest", "GetChallengeResponse", False),
    "ListChallenges": ("ListChallengesRequest", "ListChallengesResponse", False),
    "ListTrades": ("ListTradesRequest", "ListTradesResponse", False),
    "ListEvents": ("ListEventsRequest", "ListEventsResponse", False),
    "StreamEvents": ("StreamEventsRequest", "StreamEventsResponse", True),
}

TEXT, INT32, INT64, BOOL = "string", "int32", "int64", "bool"
TIME, DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
LABELS = "map<string, string>"

# Each field as name: type; `*` after the type means repeated, `?` that it tells unset from zero.
MESSAGES: dict[str, dict[str, str]] = {
    "CreateChallengeRequest": {
        "challenge_id": TEXT, "initial_balance": TEXT, "limits": "Limits?", "currency_code": TEXT, "labels": LABELS,
    },
    "CreateChallengeResponse": {"challenge": "Challenge?", "replayed": BOOL},
    "SubmitTradeRequest": {
        "challenge_id": TEXT, "trade": "Trade?", "expected_sequence": f"{INT64}?", "validate_only": BOOL,
    },
    "SubmitTradeResponse": {"decision": "Decision?"},
    "BatchSubmitTradesRequest": {"trades": "SubmitTradeRequest*"},
    "BatchSubmitTradesResponse": {"results": "TradeResult*"},
    "TradeResult": {"decision": "Decision?", "rejection": "TradeRejection?"},
    "GetChallengeRequest": {"challenge_id": TEXT, "at_sequence": f"{INT64}?"},
    "GetChallengeResponse": {"challenge": "Challenge?"},
    "ListChallengesRequest": {
        "statuses": "ChallengeStatus*", "labels": LABELS, "page_size": INT32, "page_token": TEXT,
    },
    "ListChallengesResponse": {"challenges": "Challenge*", "next_page_token": TEXT},
    "ListTradesRequest": {"challenge_id": TEXT, "page_size": INT32, "page_token": TEXT},
    "ListTradesResponse": {"trades": "RecordedTrade*", "next_page_token": TEXT},
    "RecordedTrade": {"trade": "Trade?", "decision": "Decision?"},
    "ListEventsRequest": {"challenge_id": TEXT, "page_size": INT32, "page_token": TEXT},
    "ListEventsResponse": {"events": "ChallengeEvent*", "next_page_token": TEXT},
    "StreamEventsRequest": {
        "challenge_ids": f"{TEXT}*", "new_statuses": "ChallengeStatus*", "after_cursor": f"{TEXT}?",
        "after_position": f"{INT64}?", "from_beginning": "StreamEventsRequest.FromBeginning?",
        "from_now": "StreamEventsRequest.FromNow?", "heartbeat_interval": f"{DURATION}?",
        "max_events_per_message": INT32,
    },
    "StreamEventsResponse": {
        "cursor": TEXT, "event": "ChallengeEvent?", "caught_up": "CaughtUp?", "heartbeat": "Heartbeat?",
        "events": "EventBatch?",
    },
    "EventBatch": {"events": "ChallengeEvent*"},
    "Challenge": {
        "challenge_id": TEXT, "status": "ChallengeStatus", "limits": "Limits?", "initial_balance": TEXT,
        "equity": TEXT, "peak_equity": TEXT, "daily_start_equity": TEXT, "trading_day": TEXT, "last_sequence": INT64,
        "version": INT64, "status_reason": "Rule", "currency_code": TEXT, "labels": LABELS,
        "evaluations": "RuleEvaluation*", "created_at": f"{TIME}?", "activated_at": f"{TIME}?",
        "closed_at": f"{TIME}?", "last_executed_at": f"{TIME}?",
    },
    "Limits": {"max_daily_drawdown_pct": TEXT, "max_total_drawdown_pct": TEXT, "profit_target_pct": TEXT},
    "Trade": {"trade_id": TEXT, "realized_pnl": TEXT, "executed_at": f"{TIME}?", "symbol": TEXT},
    "Decision": {
        "challenge_id": TEXT, "trade_id": TEXT, "sequence": INT64, "replayed": BOOL,
        "previous_status": "ChallengeStatus", "status": "ChallengeStatus", "reason": "Rule", "equity": TEXT,
        "peak_equity": TEXT, "daily_start_equity": TEXT, "evaluations": "RuleEvaluation*",
        "executed_at": f"{TIME}?", "recorded_at": f"{TIME}?",
    },
    "RuleEvaluation": {
        "rule": "Rule", "limit_pct": TEXT, "observed_pct": TEXT, "triggered": BOOL, "headroom": TEXT,
    },
    "TradeRejection": {
        "code": INT32, "reason": "ErrorReason", "message": TEXT, "metadata": LABELS,
        "field_violations": "FieldViolation*",
    },
    "ChallengeEvent": {
        "position": INT64, "challenge_id": TEXT, "challenge_sequence": INT64, "event_type": "EventType",
        "old_status": "ChallengeStatus", "new_status": "ChallengeStatus", "reason": "Rule", "trade_id": TEXT,
        "trade_sequence": INT64, "equity": TEXT, "evaluations": "RuleEvaluation*", "occurred_at": f"{TIME}?",
        "recorded_at": f"{TIME}?",
    },
}  # fmt: skip

ONEOFS = {
    "TradeResult": {"outcome": ["decision", "rejection"]},
    "StreamEventsRequest": {"start": ["after_cursor", "after_position", "from_beginning", "from_now"]},
    "StreamEventsResponse": {"message": ["event", "caught_up", "heartbeat", "events"]},
}

ENUMS = {
    "ChallengeStatus": ("CHALLENGE_STATUS_", ["PENDING", "ACTIVE", "FAILED", "FUNDED"]),
    "Rule": ("RULE_", ["MAX_DAILY_DRAWDOWN", "MAX_TOTAL_DRAWDOWN", "PROFIT_TARGET"]),
    "EventType": ("EVENT_TYPE_", ["CHALLENGE_CREATED", "CHALLENGE_STATUS_CHANGED"]),
}

ERROR_TABLE = """
    INVALID_ARGUMENT VALIDATION_FAILED
    NOT_FOUND CHALLENGE_NOT_FOUND
    NOT_FOUND SEQUENCE_NOT_FOUND
    ALREADY_EXISTS CHALLENGE_EXISTS
    ALREADY_EXISTS TRADE_ID_REUSED
    FAILED_PRECONDITION CHALLENGE_TERMINAL
    FAILED_PRECONDITION TRADE_OUT_OF_ORDER
    INVALID_ARGUMENT TRADE_IN_FUTURE
    OUT_OF_RANGE EQUITY_OUT_OF_RANGE
    ABORTED SEQUENCE_MISMATCH
    ABORTED PREDECESSOR_FAILED
    ABORTED WRITE_CONFLICT
    RESOURCE_EXHAUSTED OVERLOADED
    UNAVAILABLE DATABASE_UNAVAILABLE
    UNAVAILABLE DRAINING
    UNAVAILABLE OUTCOME_UNKNOWN
    INVALID_ARGUMENT CURSOR_MISMATCH
    FAILED_PRECONDITION CHALLENGE_ARCHIVED
    INTERNAL INTERNAL
"""


def shown(field: Any) -> str:
    """A field's type as the table above writes it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (shown(part) for part in field.message_type.fields)
        return f"map<{key}, {value}>"
    named = field.message_type or field.enum_type
    if named is None:
        types = {field.TYPE_STRING: TEXT, field.TYPE_INT32: INT32, field.TYPE_INT64: INT64, field.TYPE_BOOL: BOOL}
        name = types[field.type]
    else:
        name = named.full_name.removeprefix("propfirm.challenge.v1.")
    return name + ("*" if field.is_repeated else "?" if field.has_presence else "")


def test_the_package_is_versioned_and_imports_nothing_but_protobuf() -> None:
    assert FILE.package == "propfirm.challenge.v1"
    assert {file.name for file in FILE.dependencies} <= {
        "google/protobuf/timestamp.proto", "google/protobuf/duration.proto",
    }  # fmt: skip


def test_the_text_of_the_contract_imports_nothing_but_protobuf(project_root: Path) -> None:
    text = (project_root / "protos/propfirm/challenge/v1/challenge.proto").read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if line.startswith("import ")]
    assert imports
    assert all(line.startswith('import "google/protobuf/') for line in imports)


def test_the_service_has_these_methods_and_no_other() -> None:
    methods = FILE.services_by_name["ChallengeService"].methods
    found = {m.name: (m.input_type.name, m.output_type.name, m.server_streaming) for m in methods}
    assert found == RPCS
    assert not any(method.client_streaming for method in methods)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_these_fields_of_these_types(name: str) -> None:
    fields = FILE.message_types_by_name[name].fields_by_name
    assert {field: shown(fields[field]) for field in MESSAGES[name] if field in fields} == MESSAGES[name]


@pytest.mark.parametrize("name", ONEOFS)
def test_a_message_has_these_oneofs(name: str) -> None:
    oneofs = FILE.message_types_by_name[name].oneofs_by_name
    assert {one: [field.name for field in oneofs[one].fields] for one in ONEOFS[name]} == ONEOFS[name]


@pytest.mark.parametrize("name", ["FromBeginning", "FromNow"])
def test_the_starts_without_a_place_are_empty_messages(name: str) -> None:
    assert not FILE.message_types_by_name["StreamEventsRequest"].nested_types_by_name[name].fields


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_has_these_values_after_unspecified(name: str) -> None:
    prefix, values = ENUMS[name]
    found = {value.number: value.name for value in FILE.enum_types_by_name[name].values}
    assert found == {number: prefix + value for number, value in enumerate(["UNSPECIFIED", *values])}


@pytest.mark.parametrize(
    ("name", "inside"), [("ChallengeStatus", ChallengeStatus), ("Rule", Rule), ("EventType", EventType)]
)
def test_an_enum_of_the_contract_is_the_enum_of_the_rules(name: str, inside: Any) -> None:
    _, values = ENUMS[name]
    assert [member.value for member in inside] == values


def test_the_reasons_of_the_contract_are_those_of_the_rules() -> None:
    values = [value.name for value in FILE.enum_types_by_name["ErrorReason"].values]
    assert values == ["ERROR_REASON_UNSPECIFIED", *(f"ERROR_REASON_{reason.value}" for reason in ErrorReason)]


def test_the_codes_are_those_of_the_design_row_for_row() -> None:
    rows = [line.split() for line in ERROR_TABLE.strip().splitlines()]
    assert [(CODES[ErrorReason(reason)].name, reason) for _, reason in rows] == [tuple(row) for row in rows]
    assert set(CODES) == set(ErrorReason)
    assert all(isinstance(code, grpc.StatusCode) for code in CODES.values())


def test_each_reason_says_its_code_in_the_contract(project_root: Path) -> None:
    """The comment before each reason begins with the code that it travels with."""
    lines = (project_root / "protos/propfirm/challenge/v1/challenge.proto").read_text(encoding="utf-8").splitlines()
    for reason, code in CODES.items():
        at = next(n for n, line in enumerate(lines) if line.strip().startswith(f"ERROR_REASON_{reason.value} ="))
        assert lines[at - 1].strip().startswith(f"// {code.name}: "), reason


@pytest.mark.parametrize(
    "arguments", [["lint"], ["breaking", "--against", "protos/released.binpb"]], ids=lambda a: a[0]
)
def test_buf_has_no_complaint(project_root: Path, arguments: list[str]) -> None:
    ended = subprocess.run([BUF, *arguments], cwd=project_root, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_buf_lints_standard_and_comments_and_breaking_by_file(project_root: Path) -> None:
    settings = (project_root / "buf.yaml").read_text(encoding="utf-8").split()
    assert {"STANDARD", "COMMENTS", "FILE"} <= set(settings)
    assert not {"except:", "ignore:", "ignore_only:"} & set(settings)
