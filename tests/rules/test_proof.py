"""Proofs: what is proved, what is said of it, and that not one byte can be changed unnoticed."""

import json
import random
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_rules import Trade
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import CompactRange, inclusion_proof, leaf_hash
from challenge_rules.notes import Checkpoint, SignedNote, VerifierKey, sign
from challenge_rules.proof import (
    History,
    ProofError,
    RecordedInput,
    Seal,
    check_proof,
    decide_history,
    encode_proof,
    explain,
)
from tests.rules.account import CREATED_AT, Account, microseconds, terms, units

KEY = VerifierKey("firm", bytes(range(32)))
OTHER = VerifierKey("other", bytes(range(1, 33)))
SECOND = 1_000_000


def sign_bytes(message: bytes, key: VerifierKey = KEY) -> bytes:
    """Stands in for Ed25519, which is the caller's: whoever has the key can make it, and any change breaks it."""
    return sha256(key.public_key + message).digest() * 2


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    return signature == sha256(public_key + message).digest() * 2


def history(*trades: tuple[str, str], **made_with: str) -> History:
    inputs = [
        RecordedInput(Trade(f"t{number}", units(pnl), microseconds(at), "BTC"), microseconds(at) + SECOND)
        for number, (pnl, at) in enumerate(trades, start=1)
    ]
    return decide_history(terms(**made_with), inputs)


def sealed(proved: History, *, leaves: int = 5, index: int = 3, keys: tuple[VerifierKey, ...] = (KEY,)) -> Seal:
    """The seal of a history in a tree with others."""
    dice = random.Random(1)
    hashes = [leaf_hash(dice.randbytes(8)) for _ in range(leaves)]
    state = proved.state
    hashes[index] = leaf_hash(encode_leaf(state.terms.challenge_id, state.last_sequence, state.chain_head))

    def complete(start: int, size: int) -> bytes:
        tree = CompactRange()
        for each in hashes[start : start + size]:
            tree.append(each)
        return tree.root()

    tree = CompactRange()
    for each in hashes:
        tree.append(each)
    body = Checkpoint("log", leaves, tree.root(), ("sealed_at 2025-01-02T10:00:00.000000Z",)).body
    note = SignedNote(body, tuple(sign(body, key, lambda message, key=key: sign_bytes(message, key)) for key in keys))
    return Seal(index, tuple(inclusion_proof(index, leaves, complete)), note.encode())


FAILED = history(("500.25", "2025-01-02T10:00"), ("-6000", "2025-01-02T10:00:01"))


def test_a_proof_gives_back_the_history_that_it_was_made_of():
    seal = sealed(FAILED)
    proved = check_proof(encode_proof(FAILED, seal), [OTHER, KEY], verify)
    assert (proved.history, proved.seal, proved.signed_by) == (FAILED, seal, (KEY,))
    assert proved.checkpoint.tree_size == 5


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(1, 10**11)), max_size=6), st.integers(1, 40))
def test_any_history_that_the_rules_accept_can_be_proved(trades: list[Any], leaves: int):
    account = Account()
    at, inputs = CREATED_AT, []
    for number, (pnl, later) in enumerate(trades):
        if account.state.status.is_terminal:
            break
        at += later
        inputs.append(RecordedInput(Trade(f"t{number}", pnl, at), at + 1))
        account.decide(inputs[-1].trade, recorded_at=at + 1)
    made = decide_history(terms(), inputs)
    assert made.state == account.state
    assert list(made.events) == account.log
    seal = sealed(made, leaves=leaves, index=leaves // 2)
    assert check_proof(encode_proof(made, seal), [KEY], verify).history == made


def test_one_changed_byte_anywhere_is_found():
    proof = encode_proof(FAILED, sealed(FAILED))
    dice = random.Random(2)
    for place, byte in enumerate(proof):
        changed = bytearray(proof)
        changed[place] = byte ^ (1 << dice.randrange(8))
        with pytest.raises(ProofError):
            check_proof(bytes(changed), [KEY], verify)


@pytest.mark.parametrize("change", ["appended", "missing", "spaces", "doubled key", "reordered"])
def test_the_same_content_in_another_form_is_found(change: str):
    proof = encode_proof(FAILED, sealed(FAILED))
    changed = {
        "appended": proof + b"\n",
        "missing": proof[:-1],
        "spaces": json.dumps(json.loads(proof)).encode() + b"\n",
        "doubled key": proof.replace(b'{"challenge":', b'{"format":"x","challenge":', 1),
        "reordered": json.dumps(dict(reversed(json.loads(proof).items())), separators=(",", ":")).encode() + b"\n",
    }[change]
    with pytest.raises(ProofError):
        check_proof(changed, [KEY], verify)


def edited(path: list[Any], value: Any) -> bytes:
    document = json.loads(encode_proof(FAILED, sealed(FAILED)))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["trades", 1, "decision", "equity"], "1", "trades[1].decision.equity is not what"),
        (["trades", 1, "decision", "evaluations", 0, "triggered"], False, "evaluations[0].triggered is not"),
        (["trades", 1, "decision", "evaluations", 0, "triggered"], 1, "evaluations[0].triggered is not"),
        (["state", "status"], "FUNDED", "state.status is not what"),
        (["events", 2, "reason"], None, "events[2].reason is not what"),
        (["events", 2, "more"], 1, "events[2].more is not what"),
        (["creation_link"], "00", "creation_link is not what"),
        (["trades", 0, "realized_pnl"], "1", "is not what the terms and trades lead to"),
        (["trades", 0, "realized_pnl"], "1.0", "is not what the terms and trades lead to"),
        (["trades", 0, "realized_pnl"], 1, "the file is no proof"),
        (["trades", 0, "executed_at"], "2025-01-03T10:00:00.000000Z", "the rules refuse trade 2"),
        (["trades"], {}, "length"),
        (["challenge", "rules_version"], 2, "rules version 2 is unknown"),
        (["challenge", "max_daily_drawdown_pct"], "100", "the file is no proof"),
        (["challenge", "initial_balance"], "0", "must be positive"),
        (["challenge", "initial_balance"], "-1", "must be positive"),
        (["\r\x1b[2KPROVED" + "x" * 1000], 1, "??[2KPROVEDxxx"),
        (["challenge", "challenge_id"], "x", "UUID in lower case"),
        (["seal", "leaf_index"], 2, "is not what was sealed"),
        (["seal", "leaf_index"], -1, "the inclusion proof"),
        (["seal", "leaf_index"], 5, "the inclusion proof"),
        (["seal", "inclusion_proof"], [], "the inclusion proof"),
        (["seal", "checkpoint"], "x", "the checkpoint"),
        (["format"], "another", "no proof of the format"),
    ],
)
def test_what_is_wrong_is_named(path: list[Any], value: Any, said: str):
    with pytest.raises(ProofError) as refused:
        check_proof(edited(path, value), [KEY], verify)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_another_history_that_the_rules_accept_is_not_the_one_that_was_sealed():
    """Whoever changes a trade can make everything else fit it again, but for the signed tree."""
    forged = history(("500.25", "2025-01-02T10:00"), ("-1", "2025-01-02T10:00:01"))
    with pytest.raises(ProofError, match="is not what was sealed"):
        check_proof(encode_proof(forged, sealed(FAILED)), [KEY], verify)


def test_a_proof_counts_only_with_a_key_that_was_given_and_with_no_strangers_signature():
    for keys in ([], [OTHER]):
        with pytest.raises(ProofError, match="key that was not given: firm"):
            check_proof(encode_proof(FAILED, sealed(FAILED)), keys, verify)
    both = encode_proof(FAILED, sealed(FAILED, keys=(KEY, OTHER)))
    assert check_proof(both, [KEY, OTHER], verify).signed_by == (KEY, OTHER)
    with pytest.raises(ProofError, match="key that was not given: other"):
        check_proof(both, [KEY], verify)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format":"propfirm.challenge/proof/v1"}']
)
def test_what_is_no_proof_is_a_clear_error(data: bytes):
    with pytest.raises(ProofError, match="the file is no"):
        check_proof(data, [KEY], verify)


def test_a_failure_is_explained_in_plain_words():
    assert explain(FAILED) == (
        "Challenge 0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f began on 2025-01-01T00:00:00.000000Z with 100000 EUR.\n"
        "It is FAILED by MAX_DAILY_DRAWDOWN since trade 2 (t2), executed at 2025-01-02T10:00:01.000000Z: a realized P&L"
        " of -6000 took the equity from 100500.25 to 94500.25 EUR.\n"
        "The day, 2025-01-02 (UTC), began with 100000; the loss since then of 5499.75 (5.49975 %) exceeds the 5000 that"
        " 5 % allow.\n"
        "The highest equity so far was 100500.25; the loss since then of 6000 (5.970134 %) is within the 10050.025 that"
        " 10 % allow.\n"
        "The profit of -5499.75 (-5.49975 %) is below the target of 10000 (10 %)."
    )


def test_amounts_tell_what_rounded_percentages_cannot():
    said = explain(history(("-5000.00000001", "2025-01-02T10:00")))
    assert "the loss since then of 5000.00000001 (5 %) exceeds the 5000 that 5 % allow." in said


@pytest.mark.parametrize(
    ("trades", "said"),
    [
        ([], "has no trades yet and is PENDING"),
        ([("1", "2025-01-02T10:00")], "number 1 of 2025-01-02T10:00:00.000000Z, it is ACTIVE with an equity of 100001"),
        ([("10000", "2025-01-02T10:00")], "It is FUNDED by PROFIT_TARGET since trade 1"),
        ([("10000", "2025-01-02T10:00")], "The profit of 10000 (10 %) reaches the target of 10000 (10 %)."),
        ([("-20000", "2025-01-02T10:00")], "Several rules triggered at once; MAX_DAILY_DRAWDOWN comes first"),
    ],
)
def test_every_status_is_explained(trades: list[tuple[str, str]], said: str):
    assert said in explain(history(*trades))
