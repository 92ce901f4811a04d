"""Proofs as a trader or an arbiter checks them: with the SDK or its command line, a file and a public key.

Nothing here needs more than the SDK with its extra `proof`. That a proof made by the service holds as well is shown by
the suite of its commands, and, in an environment of its own, by `tests.client_alone`.
"""

import json
import random
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from challenge_client import proofs
from challenge_client.cli.commands import app
from challenge_client.proofs import ProofError, VerifierKey, explain, parse_key, verify_proof
from challenge_rules import ChallengeTerms, Limits, Trade
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import CompactRange, inclusion_proof, leaf_hash
from challenge_rules.money import parse_amount
from challenge_rules.notes import Checkpoint, SignedNote, sign
from challenge_rules.proof import RecordedInput, Seal, decide_history, encode_proof
from challenge_rules.timestamps import from_iso

PROVED, NOT_PROVED, USAGE = 0, 1, 2
CHALLENGE_ID = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"
SEALED_AT = "sealed_at 2026-03-03T09:00:00.000000Z"
LEAVES, INDEX = 6, 4


class Firm:
    """Whoever signs checkpoints: a key pair, and the proofs made with it."""

    def __init__(self, name="firm"):
        self.private = Ed25519PrivateKey.generate()
        self.public = VerifierKey(name, self.private.public_key().public_bytes_raw())

    def sign(self, text):
        return sign(text, self.public, self.private.sign)

    def prove(self, *pnls, with_others=()):
        """The proof of a challenge of 100000 with these trades, signed by this firm and by others."""
        history = decide(*pnls)
        state = history.state
        hashes = [leaf_hash(bytes([number])) for number in range(LEAVES)]
        hashes[INDEX] = leaf_hash(encode_leaf(CHALLENGE_ID, state.last_sequence, state.chain_head))
        body = Checkpoint("log", LEAVES, tree_of(hashes).root(), (SEALED_AT,)).body
        note = SignedNote(body, tuple(each.sign(body) for each in (self, *with_others))).encode()
        path = inclusion_proof(INDEX, LEAVES, lambda start, size: tree_of(hashes[start : start + size]).root())
        return encode_proof(history, Seal(INDEX, tuple(path), note))


def tree_of(hashes):
    tree = CompactRange()
    for each in hashes:
        tree.append(each)
    return tree


def decide(*pnls):
    created_at = from_iso("2026-03-02T00:00:00.000000Z")
    inputs = [
        RecordedInput(Trade(f"t{number}", parse_amount(pnl), created_at + number * 60_000_000, "ES"), created_at)
        for number, pnl in enumerate(pnls, start=1)
    ]
    terms = ChallengeTerms(CHALLENGE_ID, parse_amount("100000"), Limits(), "USD", (("desk", "7"),), 1, created_at)
    return decide_history(terms, inputs)


@pytest.fixture(scope="module")
def firm():
    return Firm()


@pytest.fixture(scope="module")
def failed(firm):
    """The proof of a failure by the limit of the day, with its second trade."""
    return firm.prove("500.25", "-6000")


# As a library


def test_a_proof_gives_the_history_with_its_evidence_and_says_who_signed_it(firm, failed):
    for key in (firm.public, str(firm.public)):
        proved = verify_proof(failed, [key])
        assert proved.history == decide("500.25", "-6000")
        assert proved.signed_by == (firm.public,)
        assert (proved.seal.leaf_index, proved.checkpoint.tree_size) == (INDEX, LEAVES)
    assert proved.history.state.status == "FAILED"
    daily, _, _ = proved.history.decisions[-1].evaluations
    assert daily.triggered
    assert "(5.49975 %) exceeds the 5000 that 5 % allow" in explain(proved.history)


def test_one_changed_byte_anywhere_proves_nothing(firm, failed):
    dice = random.Random(3)
    for place in sorted(dice.sample(range(len(failed)), 400)):
        changed = bytearray(failed)
        changed[place] ^= 1 << dice.randrange(8)
        with pytest.raises(ProofError):
            verify_proof(bytes(changed), [firm.public])


@pytest.mark.parametrize("cut", [0, 1, 2, 100])
def test_a_file_that_was_cut_proves_nothing(firm, failed, cut):
    with pytest.raises(ProofError):
        verify_proof(failed[: len(failed) * cut // 101], [firm.public])


def test_a_history_that_was_made_up_by_the_rules_needs_the_firms_signature(firm, failed):
    """Anybody can decide other trades, build a tree around them, and sign it under the firm's name."""
    stranger = Firm(firm.public.name)
    forged = stranger.prove("500.25", "9500")
    assert verify_proof(forged, [stranger.public]).history.state.status == "FUNDED"
    with pytest.raises(ProofError, match="signed by a key that was not given"):
        verify_proof(forged, [firm.public])
    document = json.loads(forged)
    document["seal"]["checkpoint"] = json.loads(failed)["seal"]["checkpoint"]
    with pytest.raises(ProofError, match="is not what was sealed"):
        verify_proof(canonical(document), [firm.public])


def test_a_signature_under_a_given_key_that_is_bad_is_named(firm, failed):
    document = json.loads(failed)
    note = SignedNote.parse(document["seal"]["checkpoint"])
    other = Firm().sign(note.text)
    forged = type(other)(firm.public.name, firm.public.key_hash, other.signature)
    document["seal"]["checkpoint"] = SignedNote(note.text, (forged,)).encode()
    with pytest.raises(ProofError, match="the signature of firm"):
        verify_proof(canonical(document), [firm.public])


def canonical(document):
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def test_what_two_keys_signed_is_proved_by_both_in_the_order_in_which_they_signed(firm):
    """As while one key takes the place of another; a signature of a key that was not given is not passed over."""
    new = Firm("firm-2027")
    proof = firm.prove("1", with_others=[new])
    assert verify_proof(proof, [new.public, firm.public]).signed_by == (firm.public, new.public)
    for alone, missing in ((firm, new), (new, firm)):
        with pytest.raises(ProofError) as refused:
            verify_proof(proof, [alone.public])
        assert f"not given: {missing.public.name}+{missing.public.key_hash.hex()}" in str(refused.value)
    assert verify_proof(firm.prove("1"), [new.public, firm.public]).signed_by == (firm.public,)
    with pytest.raises(ProofError, match="not given"):
        verify_proof(proof, [])


@pytest.mark.parametrize(
    ("pnls", "status", "said"),
    [
        ((), "PENDING", "It has no trades yet and is PENDING."),
        (("250",), "ACTIVE", "it is ACTIVE with an equity of 100250 USD."),
        (("10000",), "FUNDED", "It is FUNDED by PROFIT_TARGET since trade 1 (t1)"),
        (("4000", "-4000", "-5001"), "FAILED", "It is FAILED by MAX_DAILY_DRAWDOWN since trade 3 (t3)"),
    ],
)
def test_every_status_can_be_proved(firm, pnls, status, said):
    history = verify_proof(firm.prove(*pnls), [firm.public]).history
    assert history.state.status == status
    assert said in explain(history)


def test_a_key_is_its_text_or_a_file_that_holds_it(firm, tmp_path):
    path = tmp_path / "firm.pub"
    path.write_text(f"{firm.public}\n")
    windows = tmp_path / "windows.pub"
    windows.write_bytes(f"{firm.public}\r\n".encode())
    with_a_plus = tmp_path / "a+b.pub"
    with_a_plus.write_text(str(firm.public))
    for given in (str(firm.public), str(path), str(windows), str(with_a_plus)):
        assert parse_key(given) == firm.public


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("absent.pub", "cannot read the key absent.pub: No such file"),
        (".", "cannot read the key .: Is a directory"),
        ("", "cannot read the key"),
        ("firm+0badcafe+AQIDBA==", "an Ed25519 public key must be 32 bytes"),
        ("firm+nothex+AQ==", "has the form"),
        ("firm+0badcafe+" + "A" * 44, "not of Ed25519"),
    ],
)
def test_what_is_no_key_is_told(given, said):
    with pytest.raises(ValueError) as refused:
        parse_key(given)
    assert said in str(refused.value)


def test_a_key_that_was_not_copied_in_full_or_is_the_secret_one_is_told(firm, tmp_path):
    name, key_hash, key = str(firm.public).split("+", 2)
    other = "00000000" if key_hash != "00000000" else "00000001"
    with pytest.raises(ValueError, match="was it copied in full"):
        parse_key(f"{name}+{other}+{key}")
    path = tmp_path / "seal-key.pem"
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ValueError, match="has the form"):
        parse_key(str(path))


def test_the_exported_names_are_all_that_checking_a_proof_takes():
    assert sorted(proofs.__all__) == ["ProofError", "Proved", "VerifierKey", "explain", "parse_key", "verify_proof"]
    assert all(hasattr(proofs, name) for name in proofs.__all__)


# On the command line


@pytest.fixture
def files(firm, failed, tmp_path):
    """A folder with `proof.json` and `firm.pub`."""
    (tmp_path / "proof.json").write_bytes(failed)
    (tmp_path / "firm.pub").write_text(f"{firm.public}\n")
    return tmp_path


def run(*arguments, code=PROVED):
    """`challenge verify-proof`, with no server anywhere."""
    done = CliRunner().invoke(
        app, ["verify-proof", *map(str, arguments)], env={"COLUMNS": "400", "CHALLENGE_TARGET": "127.0.0.1:1"}
    )
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_it_says_why_the_challenge_failed_and_what_proves_it(firm, files):
    done = run(files / "proof.json", "--key", files / "firm.pub")
    assert done.stdout == (
        "Challenge 0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f began on 2026-03-02T00:00:00.000000Z with 100000 USD.\n"
        "It is FAILED by MAX_DAILY_DRAWDOWN since trade 2 (t2), executed at 2026-03-02T00:02:00.000000Z: a realized P&L"
        " of -6000 took the equity from 100500.25 to 94500.25 USD.\n"
        "The day, 2026-03-02 (UTC), began with 100000; the loss since then of 5499.75 (5.49975 %) exceeds the 5000 that"
        " 5 % allow.\n"
        "The highest equity so far was 100500.25; the loss since then of 6000 (5.970134 %) is within the 10050.025 that"
        " 10 % allow.\n"
        "The profit of -5499.75 (-5.49975 %) is below the target of 10000 (10 %).\n"
        "PROVED: its 2 trades were decided again by rules version 1, and lead to leaf 4 of the 6 that"
        f" firm+{firm.public.key_hash.hex()} signed ({SEALED_AT}).\n"
    )
    assert done.stderr == ""


def test_for_programs_it_prints_one_line_of_json(firm, files):
    done = run(files / "proof.json", "--key", str(firm.public), "--json")
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert report.pop("explanation") == explain(decide("500.25", "-6000"))
    assert report == {
        "proved": True,
        "challenge_id": CHALLENGE_ID,
        "status": "FAILED",
        "status_reason": "MAX_DAILY_DRAWDOWN",
        "trades": 2,
        "chain_head": decide("500.25", "-6000").state.chain_head.hex(),
        "leaf_index": INDEX,
        "tree_size": LEAVES,
        "origin": "log",
        "signed_by": [str(firm.public)],
    }


def test_what_is_open_has_no_reason_in_json(firm, files):
    (files / "proof.json").write_bytes(firm.prove("1"))
    report = json.loads(run(files / "proof.json", "--key", files / "firm.pub", "--json").stdout)
    assert (report["status"], report["status_reason"], report["trades"]) == ("ACTIVE", None, 1)


def test_one_changed_byte_is_not_proved_and_ends_with_1(files, failed):
    place = failed.index(b"-6000") + 1
    (files / "changed.json").write_bytes(failed[:place] + b"5" + failed[place + 1 :])
    done = run(files / "changed.json", "--key", files / "firm.pub", code=NOT_PROVED)
    assert done.stdout == ""
    assert done.stderr.startswith("NOT PROVED: ")
    assert "is not what the terms and trades lead to" in done.stderr
    done = run(files / "changed.json", "--key", files / "firm.pub", "--json", code=NOT_PROVED)
    report = json.loads(done.stdout)
    assert report["proved"] is False
    assert report["error"] in done.stderr


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"PK\x03\x04", b"[1, 2"])
def test_a_file_of_another_kind_is_not_proved(files, content):
    (files / "proof.json").write_bytes(content)
    assert "the file is no" in run(files / "proof.json", "--key", files / "firm.pub", code=NOT_PROVED).stderr


def test_each_key_that_signed_is_to_be_given(firm, files):
    new = Firm("firm-2027")
    (files / "proof.json").write_bytes(firm.prove("-6000", with_others=[new]))
    done = run(files / "proof.json", "--key", files / "firm.pub", code=NOT_PROVED)
    assert "signed by a key that was not given: firm-2027+" in done.stderr
    done = run(files / "proof.json", "--key", str(new.public), "--key", files / "firm.pub")
    both = ", ".join(f"{each.public.name}+{each.public.key_hash.hex()}" for each in (firm, new))
    assert f"that {both} signed" in done.stdout
    report = json.loads(
        run(files / "proof.json", "--key", str(new.public), "--key", files / "firm.pub", "--json").stdout
    )
    assert report["signed_by"] == [str(firm.public), str(new.public)]


def test_a_strangers_key_proves_nothing(files):
    done = run(files / "proof.json", "--key", str(Firm().public), code=NOT_PROVED)
    assert "signed by a key that was not given" in done.stderr


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("absent.json", ("--key", "firm.pub"), "No such file"),
        (".", ("--key", "firm.pub"), "Is a directory"),
        ("proof.json", ("--key", "absent.pub"), "cannot read the key absent.pub"),
        ("proof.json", ("--key", "proof.json"), "has the form"),
        ("proof.json", ("--key", "firm+0badcafe+AQ=="), "32 bytes"),
        ("proof.json", (), "--key"),
        ("proof.json", ("--key",), "requires an argument"),
        ("proof.json", ("--key", "firm.pub", "--server", "x"), "--server"),
    ],
)
def test_wrong_usage_ends_with_2(files, monkeypatch, file, options, said):
    monkeypatch.chdir(files)
    done = run(file, *options, code=USAGE)
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("cryptography", "verify-proof", "'challenge-client[proof]'"),
        ("rich", "verify-proof", "'challenge-client[proof]'"),
        ("matplotlib", "chart", "'challenge-client[cli]'"),
    ],
)
def test_without_what_a_command_needs_it_names_the_extra_that_brings_it(files, missing, command, extra):
    """Only the commands that need it say so, and none of them fails with a traceback."""
    arguments = {
        "verify-proof": [str(files / "proof.json"), "--key", str(files / "firm.pub")],
        "chart": [CHALLENGE_ID, "-o", str(files / "chart.png")],
    }
    script = f"import sys; sys.modules[{missing!r}] = None; from challenge_client.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, command, *arguments[command]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"the command line needs {missing}")
    assert extra in done.stderr
    assert done.stderr.count("\n") == 1
