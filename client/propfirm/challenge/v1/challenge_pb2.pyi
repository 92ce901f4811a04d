from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChallengeStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHALLENGE_STATUS_UNSPECIFIED: _ClassVar[ChallengeStatus]
    CHALLENGE_STATUS_PENDING: _ClassVar[ChallengeStatus]
    CHALLENGE_STATUS_ACTIVE: _ClassVar[ChallengeStatus]
    CHALLENGE_STATUS_FAILED: _ClassVar[ChallengeStatus]
    CHALLENGE_STATUS_FUNDED: _ClassVar[ChallengeStatus]

class Rule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_UNSPECIFIED: _ClassVar[Rule]
    RULE_MAX_DAILY_DRAWDOWN: _ClassVar[Rule]
    RULE_MAX_TOTAL_DRAWDOWN: _ClassVar[Rule]
    RULE_PROFIT_TARGET: _ClassVar[Rule]

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_CHALLENGE_CREATED: _ClassVar[EventType]
    EVENT_TYPE_CHALLENGE_STATUS_CHANGED: _ClassVar[EventType]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_VALIDATION_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_CHALLENGE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_SEQUENCE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_CHALLENGE_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_TRADE_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_CHALLENGE_TERMINAL: _ClassVar[ErrorReason]
    ERROR_REASON_TRADE_OUT_OF_ORDER: _ClassVar[ErrorReason]
    ERROR_REASON_TRADE_IN_FUTURE: _ClassVar[ErrorReason]
    ERROR_REASON_EQUITY_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_SEQUENCE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_PREDECESSOR_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_WRITE_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_DATABASE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_OUTCOME_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_CURSOR_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_CHALLENGE_ARCHIVED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
CHALLENGE_STATUS_UNSPECIFIED: ChallengeStatus
CHALLENGE_STATUS_PENDING: ChallengeStatus
CHALLENGE_STATUS_ACTIVE: ChallengeStatus
CHALLENGE_STATUS_FAILED: ChallengeStatus
CHALLENGE_STATUS_FUNDED: ChallengeStatus
RULE_UNSPECIFIED: Rule
RULE_MAX_DAILY_DRAWDOWN: Rule
RULE_MAX_TOTAL_DRAWDOWN: Rule
RULE_PROFIT_TARGET: Rule
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_CHALLENGE_CREATED: EventType
EVENT_TYPE_CHALLENGE_STATUS_CHANGED: EventType
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_VALIDATION_FAILED: ErrorReason
ERROR_REASON_CHALLENGE_NOT_FOUND: ErrorReason
ERROR_REASON_SEQUENCE_NOT_FOUND: ErrorReason
ERROR_REASON_CHALLENGE_EXISTS: ErrorReason
ERROR_REASON_TRADE_ID_REUSED: ErrorReason
ERROR_REASON_CHALLENGE_TERMINAL: ErrorReason
ERROR_REASON_TRADE_OUT_OF_ORDER: ErrorReason
ERROR_REASON_TRADE_IN_FUTURE: ErrorReason
ERROR_REASON_EQUITY_OUT_OF_RANGE: ErrorReason
ERROR_REASON_SEQUENCE_MISMATCH: ErrorReason
ERROR_REASON_PREDECESSOR_FAILED: ErrorReason
ERROR_REASON_WRITE_CONFLICT: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_DATABASE_UNAVAILABLE: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_OUTCOME_UNKNOWN: ErrorReason
ERROR_REASON_CURSOR_MISMATCH: ErrorReason
ERROR_REASON_CHALLENGE_ARCHIVED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason

class Limits(_message.Message):
    __slots__ = ("max_daily_drawdown_pct", "max_total_drawdown_pct", "profit_target_pct")
    MAX_DAILY_DRAWDOWN_PCT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_DRAWDOWN_PCT_FIELD_NUMBER: _ClassVar[int]
    PROFIT_TARGET_PCT_FIELD_NUMBER: _ClassVar[int]
    max_daily_drawdown_pct: str
    max_total_drawdown_pct: str
    profit_target_pct: str
    def __init__(self, max_daily_drawdown_pct: _Optional[str] = ..., max_total_drawdown_pct: _Optional[str] = ..., profit_target_pct: _Optional[str] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("challenge_id", "status", "limits", "initial_balance", "equity", "peak_equity", "daily_start_equity", "trading_day", "last_sequence", "version", "status_reason", "currency_code", "labels", "evaluations", "created_at", "activated_at", "closed_at", "last_executed_at", "rules_version")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BALANCE_FIELD_NUMBER: _ClassVar[int]
    EQUITY_FIELD_NUMBER: _ClassVar[int]
    PEAK_EQUITY_FIELD_NUMBER: _ClassVar[int]
    DAILY_START_EQUITY_FIELD_NUMBER: _ClassVar[int]
    TRADING_DAY_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_REASON_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_AT_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_EXECUTED_AT_FIELD_NUMBER: _ClassVar[int]
    RULES_VERSION_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    status: ChallengeStatus
    limits: Limits
    initial_balance: str
    equity: str
    peak_equity: str
    daily_start_equity: str
    trading_day: str
    last_sequence: int
    version: int
    status_reason: Rule
    currency_code: str
    labels: _containers.ScalarMap[str, str]
    evaluations: _containers.RepeatedCompositeFieldContainer[RuleEvaluation]
    created_at: _timestamp_pb2.Timestamp
    activated_at: _timestamp_pb2.Timestamp
    closed_at: _timestamp_pb2.Timestamp
    last_executed_at: _timestamp_pb2.Timestamp
    rules_version: int
    def __init__(self, challenge_id: _Optional[str] = ..., status: _Optional[_Union[ChallengeStatus, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., initial_balance: _Optional[str] = ..., equity: _Optional[str] = ..., peak_equity: _Optional[str] = ..., daily_start_equity: _Optional[str] = ..., trading_day: _Optional[str] = ..., last_sequence: _Optional[int] = ..., version: _Optional[int] = ..., status_reason: _Optional[_Union[Rule, str]] = ..., currency_code: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., evaluations: _Optional[_Iterable[_Union[RuleEvaluation, _Mapping]]] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., activated_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., closed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_executed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., rules_version: _Optional[int] = ...) -> None: ...

class Trade(_message.Message):
    __slots__ = ("trade_id", "realized_pnl", "executed_at", "symbol")
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    REALIZED_PNL_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_AT_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    trade_id: str
    realized_pnl: str
    executed_at: _timestamp_pb2.Timestamp
    symbol: str
    def __init__(self, trade_id: _Optional[str] = ..., realized_pnl: _Optional[str] = ..., executed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., symbol: _Optional[str] = ...) -> None: ...

class RuleEvaluation(_message.Message):
    __slots__ = ("rule", "limit_pct", "observed_pct", "triggered", "headroom")
    RULE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PCT_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_PCT_FIELD_NUMBER: _ClassVar[int]
    TRIGGERED_FIELD_NUMBER: _ClassVar[int]
    HEADROOM_FIELD_NUMBER: _ClassVar[int]
    rule: Rule
    limit_pct: str
    observed_pct: str
    triggered: bool
    headroom: str
    def __init__(self, rule: _Optional[_Union[Rule, str]] = ..., limit_pct: _Optional[str] = ..., observed_pct: _Optional[str] = ..., triggered: bool = ..., headroom: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("challenge_id", "trade_id", "sequence", "replayed", "previous_status", "status", "reason", "equity", "peak_equity", "daily_start_equity", "evaluations", "executed_at", "recorded_at")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STATUS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EQUITY_FIELD_NUMBER: _ClassVar[int]
    PEAK_EQUITY_FIELD_NUMBER: _ClassVar[int]
    DAILY_START_EQUITY_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_AT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    trade_id: str
    sequence: int
    replayed: bool
    previous_status: ChallengeStatus
    status: ChallengeStatus
    reason: Rule
    equity: str
    peak_equity: str
    daily_start_equity: str
    evaluations: _containers.RepeatedCompositeFieldContainer[RuleEvaluation]
    executed_at: _timestamp_pb2.Timestamp
    recorded_at: _timestamp_pb2.Timestamp
    def __init__(self, challenge_id: _Optional[str] = ..., trade_id: _Optional[str] = ..., sequence: _Optional[int] = ..., replayed: bool = ..., previous_status: _Optional[_Union[ChallengeStatus, str]] = ..., status: _Optional[_Union[ChallengeStatus, str]] = ..., reason: _Optional[_Union[Rule, str]] = ..., equity: _Optional[str] = ..., peak_equity: _Optional[str] = ..., daily_start_equity: _Optional[str] = ..., evaluations: _Optional[_Iterable[_Union[RuleEvaluation, _Mapping]]] = ..., executed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FieldViolation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class TradeRejection(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata", "field_violations")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FIELD_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: ErrorReason
    message: str
    metadata: _containers.ScalarMap[str, str]
    field_violations: _containers.RepeatedCompositeFieldContainer[FieldViolation]
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., field_violations: _Optional[_Iterable[_Union[FieldViolation, _Mapping]]] = ...) -> None: ...

class TradeResult(_message.Message):
    __slots__ = ("decision", "rejection")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    rejection: TradeRejection
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., rejection: _Optional[_Union[TradeRejection, _Mapping]] = ...) -> None: ...

class RecordedTrade(_message.Message):
    __slots__ = ("trade", "decision")
    TRADE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    trade: Trade
    decision: Decision
    def __init__(self, trade: _Optional[_Union[Trade, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class ChallengeTerms(_message.Message):
    __slots__ = ("initial_balance", "limits", "currency_code", "labels", "rules_version", "created_at")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INITIAL_BALANCE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RULES_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    initial_balance: str
    limits: Limits
    currency_code: str
    labels: _containers.ScalarMap[str, str]
    rules_version: int
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, initial_balance: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., currency_code: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., rules_version: _Optional[int] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ChallengeEvent(_message.Message):
    __slots__ = ("position", "challenge_id", "challenge_sequence", "event_type", "old_status", "new_status", "reason", "trade_id", "trade_sequence", "equity", "evaluations", "occurred_at", "recorded_at", "terms")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    OLD_STATUS_FIELD_NUMBER: _ClassVar[int]
    NEW_STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    TRADE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EQUITY_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    position: int
    challenge_id: str
    challenge_sequence: int
    event_type: EventType
    old_status: ChallengeStatus
    new_status: ChallengeStatus
    reason: Rule
    trade_id: str
    trade_sequence: int
    equity: str
    evaluations: _containers.RepeatedCompositeFieldContainer[RuleEvaluation]
    occurred_at: _timestamp_pb2.Timestamp
    recorded_at: _timestamp_pb2.Timestamp
    terms: ChallengeTerms
    def __init__(self, position: _Optional[int] = ..., challenge_id: _Optional[str] = ..., challenge_sequence: _Optional[int] = ..., event_type: _Optional[_Union[EventType, str]] = ..., old_status: _Optional[_Union[ChallengeStatus, str]] = ..., new_status: _Optional[_Union[ChallengeStatus, str]] = ..., reason: _Optional[_Union[Rule, str]] = ..., trade_id: _Optional[str] = ..., trade_sequence: _Optional[int] = ..., equity: _Optional[str] = ..., evaluations: _Optional[_Iterable[_Union[RuleEvaluation, _Mapping]]] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., terms: _Optional[_Union[ChallengeTerms, _Mapping]] = ...) -> None: ...

class CreateChallengeRequest(_message.Message):
    __slots__ = ("challenge_id", "initial_balance", "limits", "currency_code", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BALANCE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    initial_balance: str
    limits: Limits
    currency_code: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, challenge_id: _Optional[str] = ..., initial_balance: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., currency_code: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CreateChallengeResponse(_message.Message):
    __slots__ = ("challenge", "replayed")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    challenge: Challenge
    replayed: bool
    def __init__(self, challenge: _Optional[_Union[Challenge, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class SubmitTradeRequest(_message.Message):
    __slots__ = ("challenge_id", "trade", "expected_sequence", "validate_only")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    TRADE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    trade: Trade
    expected_sequence: int
    validate_only: bool
    def __init__(self, challenge_id: _Optional[str] = ..., trade: _Optional[_Union[Trade, _Mapping]] = ..., expected_sequence: _Optional[int] = ..., validate_only: bool = ...) -> None: ...

class SubmitTradeResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class BatchSubmitTradesRequest(_message.Message):
    __slots__ = ("trades",)
    TRADES_FIELD_NUMBER: _ClassVar[int]
    trades: _containers.RepeatedCompositeFieldContainer[SubmitTradeRequest]
    def __init__(self, trades: _Optional[_Iterable[_Union[SubmitTradeRequest, _Mapping]]] = ...) -> None: ...

class BatchSubmitTradesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TradeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[TradeResult, _Mapping]]] = ...) -> None: ...

class GetChallengeRequest(_message.Message):
    __slots__ = ("challenge_id", "at_sequence")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    AT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    at_sequence: int
    def __init__(self, challenge_id: _Optional[str] = ..., at_sequence: _Optional[int] = ...) -> None: ...

class GetChallengeResponse(_message.Message):
    __slots__ = ("challenge",)
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    challenge: Challenge
    def __init__(self, challenge: _Optional[_Union[Challenge, _Mapping]] = ...) -> None: ...

class ListChallengesRequest(_message.Message):
    __slots__ = ("statuses", "labels", "closed_at_from", "closed_at_before", "page_size", "page_token")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_FROM_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[ChallengeStatus]
    labels: _containers.ScalarMap[str, str]
    closed_at_from: _timestamp_pb2.Timestamp
    closed_at_before: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, statuses: _Optional[_Iterable[_Union[ChallengeStatus, str]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., closed_at_from: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., closed_at_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListChallengesResponse(_message.Message):
    __slots__ = ("challenges", "next_page_token")
    CHALLENGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    challenges: _containers.RepeatedCompositeFieldContainer[Challenge]
    next_page_token: str
    def __init__(self, challenges: _Optional[_Iterable[_Union[Challenge, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListTradesRequest(_message.Message):
    __slots__ = ("challenge_id", "from_sequence", "to_sequence", "page_size", "page_token")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    from_sequence: int
    to_sequence: int
    page_size: int
    page_token: str
    def __init__(self, challenge_id: _Optional[str] = ..., from_sequence: _Optional[int] = ..., to_sequence: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTradesResponse(_message.Message):
    __slots__ = ("trades", "next_page_token")
    TRADES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    trades: _containers.RepeatedCompositeFieldContainer[RecordedTrade]
    next_page_token: str
    def __init__(self, trades: _Optional[_Iterable[_Union[RecordedTrade, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("challenge_id", "new_statuses", "after_position", "page_size", "page_token")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    NEW_STATUSES_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    challenge_id: str
    new_statuses: _containers.RepeatedScalarFieldContainer[ChallengeStatus]
    after_position: int
    page_size: int
    page_token: str
    def __init__(self, challenge_id: _Optional[str] = ..., new_statuses: _Optional[_Iterable[_Union[ChallengeStatus, str]]] = ..., after_position: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ChallengeEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[ChallengeEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StreamEventsRequest(_message.Message):
    __slots__ = ("challenge_ids", "new_statuses", "after_cursor", "after_position", "from_beginning", "from_now", "heartbeat_interval", "max_events_per_message")
    class FromBeginning(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class FromNow(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    CHALLENGE_IDS_FIELD_NUMBER: _ClassVar[int]
    NEW_STATUSES_FIELD_NUMBER: _ClassVar[int]
    AFTER_CURSOR_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    FROM_BEGINNING_FIELD_NUMBER: _ClassVar[int]
    FROM_NOW_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENTS_PER_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    challenge_ids: _containers.RepeatedScalarFieldContainer[str]
    new_statuses: _containers.RepeatedScalarFieldContainer[ChallengeStatus]
    after_cursor: str
    after_position: int
    from_beginning: StreamEventsRequest.FromBeginning
    from_now: StreamEventsRequest.FromNow
    heartbeat_interval: _duration_pb2.Duration
    max_events_per_message: int
    def __init__(self, challenge_ids: _Optional[_Iterable[str]] = ..., new_statuses: _Optional[_Iterable[_Union[ChallengeStatus, str]]] = ..., after_cursor: _Optional[str] = ..., after_position: _Optional[int] = ..., from_beginning: _Optional[_Union[StreamEventsRequest.FromBeginning, _Mapping]] = ..., from_now: _Optional[_Union[StreamEventsRequest.FromNow, _Mapping]] = ..., heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_events_per_message: _Optional[int] = ...) -> None: ...

class CaughtUp(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ChallengeEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[ChallengeEvent, _Mapping]]] = ...) -> None: ...

class StreamEventsResponse(_message.Message):
    __slots__ = ("cursor", "event", "caught_up", "heartbeat", "events")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    event: ChallengeEvent
    caught_up: CaughtUp
    heartbeat: Heartbeat
    events: EventBatch
    def __init__(self, cursor: _Optional[str] = ..., event: _Optional[_Union[ChallengeEvent, _Mapping]] = ..., caught_up: _Optional[_Union[CaughtUp, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., events: _Optional[_Union[EventBatch, _Mapping]] = ...) -> None: ...
