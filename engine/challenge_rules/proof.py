"""The proof of a verdict: one self-contained file that anybody can check without a database and without a server.

It is canonical JSON: UTF-8, keys sorted by code point, no white space, one newline at the end. Terms and trades are its
only content; everything else in it (decisions, evidence, events, links, the final state) follows from them by the
rules. Whoever checks it makes the whole file again from terms, trades and seal and compares the bytes, so that no
changed byte goes unnoticed; and the seal ties it to a checkpoint that was signed.

Cryptography is the caller's, as in `notes`: a function that verifies raw Ed25519 is passed in.
"""

import json
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from challenge_rules.chain import encode_leaf
from challenge_rules.challenge import ChallengeState, ChallengeTerms, Decision, Trade
from challenge_rules.engine import ChallengeEngine
from challenge_rules.errors import ChallengeError
from challenge_rules.events import ChallengeEvent
from challenge_rules.limits import HUNDRED_PCT, Limits, format_percentage, parse_percentage
from challenge_rules.merkle import leaf_hash, root_from_inclusion
from challenge_rules.money import format_amount, format_scaled, parse_amount
from challenge_rules.notes import Checkpoint, SignedNote, VerifierKey, Verify
from challenge_rules.rules import OBSERVED_PLACES, ChallengeRulesEngine, RuleEvaluation
from challenge_rules.timestamps import day_to_iso, from_iso, to_iso, trading_day

FORMAT = "propfirm.challenge/proof/v1"
MAX_PROOF_BYTES = 1 << 30
MAX_TOLD = 200
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class ProofError(ValueError):
    """The proof proves nothing; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Where a chain's head stands in the sealed tree, and the checkpoint that signs it.

    `inclusion_proof` is RFC 6962's audit path from the leaf to the root of the checkpoint's tree; `note` is the
    checkpoint as a signed note.
    """

    leaf_index: int
    inclusion_proof: tuple[bytes, ...]
    note: str


@dataclass(frozen=True, slots=True)
class RecordedInput:
    """What cannot be derived of a trade: itself, and when it was recorded."""

    trade: Trade
    recorded_at: int


@dataclass(frozen=True, slots=True)
class History:
    """A challenge decided from its terms and trades: a decision for each trade, all events, every link."""

    terms: ChallengeTerms
    inputs: tuple[RecordedInput, ...]
    decisions: tuple[Decision, ...]
    events: tuple[ChallengeEvent, ...]
    links: tuple[bytes, ...]
    state: ChallengeState


@dataclass(frozen=True, slots=True)
class Proved:
    """What a proof has proved: the history, the checkpoint that seals it, and the keys that signed that."""

    history: History
    seal: Seal
    checkpoint: Checkpoint
    signed_by: tuple[VerifierKey, ...]


def decide_history(terms: ChallengeTerms, inputs: Iterable[RecordedInput]) -> History:
    """Decide a challenge from the beginning; `ProofError` when the rules refuse a trade, or are of no known version."""
    try:
        engine = ChallengeEngine(ChallengeRulesEngine(terms.rules_version))
    except ValueError as error:
        raise ProofError(str(error)) from None
    state, created = engine.create(terms)
    inputs = tuple(inputs)
    decisions = []
    events = [created]
    links = [state.chain_head]
    for each in inputs:
        try:
            outcome = engine.decide(state, each.trade, recorded_at=each.recorded_at)
        except ChallengeError as error:
            raise ProofError(f"the rules refuse trade {state.last_sequence + 1}: {error}") from None
        state = outcome.state
        decisions.append(outcome.decision)
        events += outcome.events
        links.append(state.chain_head)
    return History(terms, inputs, tuple(decisions), tuple(events), tuple(links), state)


def encode_proof(history: History, seal: Seal) -> bytes:
    """The file that proves a history."""
    return _canonical(_document(history, seal))


def check_proof(data: bytes, keys: Sequence[VerifierKey], verify: Verify) -> Proved:
    """Everything that a proof says, once it is sure; `ProofError` otherwise.

    `keys` are the public keys that its checkpoint may be signed by: each signature on it must be of one of them and
    good, and there must be one at least.
    """
    document = _parse(data)
    try:
        terms = _terms(document["challenge"])
        inputs = [_input(row) for row in document["trades"]]
        seal = _seal(document["seal"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ProofError(f"the file is no proof: {type(error).__name__}: {_shown(str(error))}") from None
    try:
        history = decide_history(terms, inputs)
        made = _document(history, seal)
        expected = _canonical(made)
    except ProofError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ProofError(f"the file holds what no challenge can have: {_shown(str(error))}") from None
    if expected != data:
        raise ProofError(_first_difference(document, made, data, expected))
    checkpoint, signed_by = _check_seal(history.state, seal, keys, verify)
    return Proved(history, seal, checkpoint, signed_by)


def _check_seal(
    state: ChallengeState, seal: Seal, keys: Sequence[VerifierKey], verify: Verify
) -> tuple[Checkpoint, tuple[VerifierKey, ...]]:
    try:
        note = SignedNote.parse(seal.note)
        checkpoint = Checkpoint.parse_body(note.text)
        signed_by = note.verified_by(keys, verify)
        strangers = note.unknown_signatures(keys)
    except ValueError as error:
        raise ProofError(f"the checkpoint: {error}") from None
    if strangers or not signed_by:
        names = ", ".join(f"{each.name}+{each.key_hash.hex()}" for each in strangers)
        raise ProofError(f"the checkpoint is signed by a key that was not given: {names}")
    hashed = leaf_hash(encode_leaf(state.terms.challenge_id, state.last_sequence, state.chain_head))
    try:
        root = root_from_inclusion(hashed, seal.leaf_index, checkpoint.tree_size, seal.inclusion_proof)
    except ValueError as error:
        raise ProofError(f"the inclusion proof: {error}") from None
    if root != checkpoint.root:
        raise ProofError(
            f"trade {state.last_sequence} is not what was sealed: terms and trades lead to a chain whose head is not in"
            f" the signed tree"
        )
    return checkpoint, tuple(signed_by)


def explain(history: History) -> str:
    """In plain words: why the challenge failed or was funded, or how far it is from either."""
    terms, state = history.terms, history.state
    currency = terms.currency_code
    began = (
        f"Challenge {terms.challenge_id} began on {to_iso(terms.created_at)}"
        f" with {format_amount(terms.initial_balance)} {currency}."
    )
    if not history.decisions:
        return f"{began} It has no trades yet and is PENDING."
    decision = history.decisions[-1]
    trade = history.inputs[-1].trade
    before = history.decisions[-2].equity if len(history.decisions) > 1 else terms.initial_balance
    daily, total, target = decision.evaluations
    verdict = f"{state.status} by {state.status_reason}" if state.status_reason else str(state.status)
    last = (
        f"It is {verdict} since trade {decision.sequence} ({trade.trade_id}), executed at {to_iso(trade.executed_at)}:"
        f" a realized P&L of {format_amount(trade.realized_pnl)} took the equity from {format_amount(before)} to"
        f" {format_amount(decision.equity)} {currency}."
        if state.status.is_terminal
        else f"After its last sealed trade, number {decision.sequence} of {to_iso(trade.executed_at)}, it is {verdict}"
        f" with an equity of {format_amount(decision.equity)} {currency}."
    )
    profit = decision.equity - terms.initial_balance
    wanted = -(-target.limit_pct * terms.initial_balance // HUNDRED_PCT)
    target_told = (
        f"The profit of {format_amount(profit)} ({_percent(target)} %) {'reaches' if target.triggered else 'is below'}"
        f" the target of {format_amount(wanted)} ({format_percentage(target.limit_pct)} %)."
    )
    day = day_to_iso(trading_day(trade.executed_at))
    lines = [
        began,
        last,
        _drawdown(daily, f"The day, {day} (UTC), began with", decision.daily_start_equity, decision.equity),
        _drawdown(total, "The highest equity so far was", decision.peak_equity, decision.equity),
        target_told,
    ]
    if state.status_reason is not None and sum(each.triggered for each in decision.evaluations) > 1:
        lines.append(f"Several rules triggered at once; {state.status_reason} comes first in the order of priority.")
    return "\n".join(lines)


def _drawdown(evaluation: RuleEvaluation, said: str, reference: int, equity: int) -> str:
    """A drawdown in amounts, which are exact, and in per cent, which are rounded."""
    loss = max(reference - equity, 0)
    allowed = evaluation.limit_pct * reference // HUNDRED_PCT
    observed = format_scaled(max(evaluation.observed_pct, 0), OBSERVED_PLACES)
    return (
        f"{said} {format_amount(reference)}; the loss since then of {format_amount(loss)} ({observed} %)"
        f" {'exceeds' if evaluation.triggered else 'is within'} the {format_amount(allowed)} that"
        f" {format_percentage(evaluation.limit_pct)} % allow."
    )


def _percent(evaluation: RuleEvaluation) -> str:
    return format_scaled(evaluation.observed_pct, OBSERVED_PLACES)


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _document(history: History, seal: Seal) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "challenge": _challenge_json(history.terms),
        "trades": [
            _trade_json(each, decision, link)
            for each, decision, link in zip(history.inputs, history.decisions, history.links[1:], strict=True)
        ],
        "events": [_event_json(event) for event in history.events],
        "creation_link": history.links[0].hex(),
        "state": _state_json(history.state),
        "seal": {
            "leaf_index": seal.leaf_index,
            "inclusion_proof": [each.hex() for each in seal.inclusion_proof],
            "checkpoint": seal.note,
        },
    }


def _challenge_json(terms: ChallengeTerms) -> dict[str, Any]:
    return {
        "challenge_id": terms.challenge_id,
        "initial_balance": format_amount(terms.initial_balance),
        "max_daily_drawdown_pct": format_percentage(terms.limits.max_daily_drawdown_pct),
        "max_total_drawdown_pct": format_percentage(terms.limits.max_total_drawdown_pct),
        "profit_target_pct": format_percentage(terms.limits.profit_target_pct),
        "currency_code": terms.currency_code,
        "labels": dict(terms.labels),
        "rules_version": terms.rules_version,
        "created_at": to_iso(terms.created_at),
    }


def _trade_json(each: RecordedInput, decision: Decision, link: bytes) -> dict[str, Any]:
    return {
        "sequence": decision.sequence,
        "trade_id": each.trade.trade_id,
        "realized_pnl": format_amount(each.trade.realized_pnl),
        "executed_at": to_iso(each.trade.executed_at),
        "symbol": each.trade.symbol,
        "recorded_at": to_iso(each.recorded_at),
        "decision": {
            "previous_status": decision.previous_status,
            "status": decision.status,
            "reason": decision.reason,
            "equity": format_amount(decision.equity),
            "peak_equity": format_amount(decision.peak_equity),
            "daily_start_equity": format_amount(decision.daily_start_equity),
            "evaluations": [_evaluation_json(evaluation) for evaluation in decision.evaluations],
        },
        "chain_hash": link.hex(),
    }


def _event_json(event: ChallengeEvent) -> dict[str, Any]:
    return {
        "challenge_sequence": event.challenge_sequence,
        "event_type": event.event_type,
        "old_status": event.old_status,
        "new_status": event.new_status,
        "reason": event.reason,
        "trade_id": event.trade_id,
        "trade_sequence": event.trade_sequence,
        "equity": format_amount(event.equity),
        "evaluations": [_evaluation_json(evaluation) for evaluation in event.evaluations],
        "occurred_at": to_iso(event.occurred_at),
        "recorded_at": to_iso(event.recorded_at),
    }


def _evaluation_json(evaluation: RuleEvaluation) -> dict[str, Any]:
    return {
        "rule": evaluation.rule,
        "limit_pct": format_percentage(evaluation.limit_pct),
        "observed_pct": format_scaled(evaluation.observed_pct, OBSERVED_PLACES),
        "triggered": evaluation.triggered,
        "headroom": format_amount(evaluation.headroom),
    }


def _state_json(state: ChallengeState) -> dict[str, Any]:
    return {
        "status": state.status,
        "status_reason": state.status_reason,
        "equity": format_amount(state.equity),
        "peak_equity": format_amount(state.peak_equity),
        "daily_start_equity": format_amount(state.daily_start_equity),
        "trading_day": None if state.trading_day is None else day_to_iso(state.trading_day),
        "last_sequence": state.last_sequence,
        "event_count": state.event_count,
        "activated_at": None if state.activated_at is None else to_iso(state.activated_at),
        "closed_at": None if state.closed_at is None else to_iso(state.closed_at),
        "last_executed_at": None if state.last_executed_at is None else to_iso(state.last_executed_at),
        "chain_head": state.chain_head.hex(),
    }


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_PROOF_BYTES:
        raise ProofError(f"the file is larger than {MAX_PROOF_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProofError(f"the file is no JSON: {_shown(str(error))}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProofError(f"the file is no proof of the format {FORMAT}")
    return document


def _terms(row: dict[str, Any]) -> ChallengeTerms:
    return ChallengeTerms(
        challenge_id=_challenge_id(row["challenge_id"]),
        initial_balance=_positive(parse_amount(row["initial_balance"])),
        limits=Limits(
            parse_percentage(row["max_daily_drawdown_pct"]),
            parse_percentage(row["max_total_drawdown_pct"]),
            parse_percentage(row["profit_target_pct"]),
        ),
        currency_code=_is(str, row["currency_code"]),
        labels=tuple(sorted((_is(str, key), _is(str, value)) for key, value in row["labels"].items())),
        rules_version=_is(int, row["rules_version"]),
        created_at=from_iso(row["created_at"]),
    )


def _positive(amount: int) -> int:
    if amount <= 0:
        raise ValueError("initial_balance must be positive")
    return amount


def _challenge_id(text: str) -> str:
    """In its one form: the chain holds its bytes, which upper-case digits would name as well."""
    if _UUID.fullmatch(text) is None:
        raise ValueError("challenge_id must be a UUID in lower case")
    return text


def _input(row: dict[str, Any]) -> RecordedInput:
    trade = Trade(
        trade_id=_is(str, row["trade_id"]),
        realized_pnl=parse_amount(row["realized_pnl"]),
        executed_at=from_iso(row["executed_at"]),
        symbol=_is(str, row["symbol"]),
    )
    return RecordedInput(trade, from_iso(row["recorded_at"]))


def _seal(row: dict[str, Any]) -> Seal:
    return Seal(
        leaf_index=_is(int, row["leaf_index"]),
        inclusion_proof=tuple(bytes.fromhex(each) for each in row["inclusion_proof"]),
        note=_is(str, row["checkpoint"]),
    )


def _is(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _shown(text: str) -> str:
    """What a file says, so that it cannot make a terminal show something else, nor without an end."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_TOLD])


def _first_difference(given: Any, made: Any, data: bytes, expected: bytes) -> str:
    """Where a file differs from the one that its own terms and trades lead to."""
    path = _path_of_difference(given, made, "")
    if path is not None:
        return f"{_shown(path)} is not what the terms and trades lead to"
    place = next((at for at, (one, other) in enumerate(zip(data, expected, strict=False)) if one != other), None)
    if place is None:
        place = min(len(data), len(expected))
    return f"byte {place} is not in the canonical form"


def _path_of_difference(given: Any, made: Any, path: str) -> str | None:
    if isinstance(given, dict) and isinstance(made, dict):
        for key in sorted(given.keys() | made.keys()):
            if key not in given or key not in made:
                return f"{path}.{key}".lstrip(".")
            if (found := _path_of_difference(given[key], made[key], f"{path}.{key}")) is not None:
                return found
        return None
    if isinstance(given, list) and isinstance(made, list):
        for index, (one, other) in enumerate(zip(given, made, strict=False)):
            if (found := _path_of_difference(one, other, f"{path}[{index}]")) is not None:
                return found
        return None if len(given) == len(made) else f"the length of {path}".replace(" .", " ")
    if given != made or isinstance(given, bool) is not isinstance(made, bool):
        return path.lstrip(".")
    return None
