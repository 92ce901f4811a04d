"""A signed note and a checkpoint have one text each, and a note says something only if a known key signed it."""

from base64 import b64decode, b64encode
from hashlib import sha512

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from challenge_rules.notes import (
    MAX_SIGNATURES,
    MAX_TREE_SIZE,
    Checkpoint,
    NoteError,
    NoteSignature,
    SignedNote,
    VerifierKey,
    sign,
)


def toy_signature(public_key: bytes, message: bytes) -> bytes:
    """64 bytes that depend on key and message: enough wherever no cryptography is tested."""
    return sha512(public_key + message).digest()


def toy_verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    return signature == toy_signature(public_key, message)


def toy_sign(text: str, key: VerifierKey) -> NoteSignature:
    return sign(text, key, lambda message: toy_signature(key.public_key, message))


LOG = VerifierKey("log.example/challenges", bytes(range(32)))
WITNESS = VerifierKey("witness.example", bytes(32))
STRANGER = VerifierKey("stranger.example", b"\x07" * 32)

CHECKPOINT = Checkpoint("log.example/challenges", 20852163, bytes(range(100, 132)))
NOTE = SignedNote(CHECKPOINT.body, (toy_sign(CHECKPOINT.body, LOG),))

NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"], exclude_characters="+"), min_size=1, max_size=12
)
LINES = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=1, max_size=40)
TEXTS = st.lists(LINES | st.just(""), max_size=3).map(lambda lines: "".join(f"{line}\n" for line in lines) or "\n")
KEYS = st.builds(VerifierKey, NAMES, st.binary(min_size=32, max_size=32))
CHECKPOINTS = st.builds(
    Checkpoint,
    LINES,
    st.integers(0, MAX_TREE_SIZE),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3).map(tuple),
)
SIGNATURES = st.builds(
    NoteSignature, NAMES, st.binary(min_size=4, max_size=4), st.sampled_from([1, 2, 3, 64, 72]).map(lambda n: b"s" * n)
)
NOTES = st.builds(
    SignedNote,
    TEXTS,
    st.lists(SIGNATURES, min_size=1, max_size=4, unique_by=lambda one: (one.name, one.key_hash)).map(tuple),
)

GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
"""The example in the documentation of Go's golang.org/x/mod/sumdb/note."""


def ed25519_verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def test_the_note_in_gos_documentation_is_read_and_its_signature_is_good():
    key = VerifierKey.parse(GO_KEY)
    note = SignedNote.parse(GO_NOTE)
    assert note.verified_by([key], ed25519_verify) == [key]
    with pytest.raises(NoteError):
        SignedNote(note.text.upper(), note.signatures).verified_by([key], ed25519_verify)


def test_what_ed25519_signs_here_verifies_here():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    key = VerifierKey("log.example", private.public_key().public_bytes_raw())
    note = SignedNote(CHECKPOINT.body, (sign(CHECKPOINT.body, key, private.sign),))
    assert SignedNote.parse(note.encode()).verified_by([key], ed25519_verify) == [key]


def test_gos_key_and_note_are_written_as_go_writes_them():
    key = VerifierKey.parse(GO_KEY)
    assert (key.name, key.key_hash.hex(), str(key)) == ("PeterNeumann", "c74f20a3", GO_KEY)
    note = SignedNote.parse(GO_NOTE)
    assert (note.text, len(note.signatures), note.signatures[0].name) == (GO_TEXT, 1, "PeterNeumann")
    assert note.signatures[0].key_hash == key.key_hash
    assert note.encode() == GO_NOTE


def test_the_example_of_the_checkpoint_specification_is_read_and_written_alike():
    text = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-"
        "the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    note = SignedNote.parse(text)
    checkpoint = Checkpoint.parse_body(note.text)
    assert (checkpoint.origin, checkpoint.tree_size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex().startswith("0ac5186a")
    assert (checkpoint.extensions, checkpoint.body) == ((), note.text)
    assert note.encode() == text


@pytest.mark.parametrize("name", ["a", "log.example/challenges", "café", "日本", "—", "a\u200bb", "\x7f"])
def test_a_key_name_is_any_text_without_spaces_and_plus(name):
    assert VerifierKey.parse(str(VerifierKey(name, bytes(32)))).name == name


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a+b", "+", " a", "a\n", "a\tb", "a\u00a0b", "a\u2028b", "a\u3000", "\x85", "a\x00b", "\x1c", "\ud800"],
)
def test_any_other_key_name_is_refused(name):
    with pytest.raises(ValueError):
        VerifierKey(name, bytes(32))
    with pytest.raises(ValueError):
        NoteSignature(name, bytes(4), bytes(64))


@given(KEYS)
def test_a_verifier_key_is_read_from_its_text(key):
    assert VerifierKey.parse(str(key)) == key
    assert len(key.key_hash) == 4


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_public_key_of_another_length_is_refused(length):
    with pytest.raises(ValueError):
        VerifierKey("a", bytes(length))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "form"),
        ("PeterNeumann", "form"),
        (GO_KEY.replace("c74f20a3", "C74F20A3"), "form"),
        (GO_KEY.replace("c74f20a3", "74f20a3"), "form"),
        (GO_KEY + "\n", "form"),
        ("+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "form"),
        (GO_KEY.replace("c74f20a3", "c74f20a4"), "hash"),
        (GO_KEY.replace("Peter", "John"), "hash"),
        (GO_KEY.replace("10TW", "10TX"), "hash"),
        (GO_KEY.replace("PeterNeumann", "Peter Neumann"), "name"),
        (GO_KEY[:-4], "32 bytes"),
        (GO_KEY[:-1], "base64"),
        (GO_KEY.replace("ARpc", "AR-c"), "base64"),
        (GO_KEY.replace("ARpc", "ARpc "), "base64"),
        (GO_KEY.replace("ARpc", "ARpé"), "base64"),
        (GO_KEY.replace("+ARpc", "+BBpc"), "Ed25519"),
    ],
)
def test_a_verifier_key_that_was_mistyped_is_refused_and_says_why(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        VerifierKey.parse(text)


@given(CHECKPOINTS)
@example(Checkpoint("—", 0, bytes(32)))
@example(Checkpoint("a\x85b\u2028c", MAX_TREE_SIZE, bytes(32), ("— not a signature",)))
def test_a_checkpoint_is_read_from_its_body_and_fits_into_a_note(checkpoint):
    assert Checkpoint.parse_body(checkpoint.body) == checkpoint
    note = SignedNote(checkpoint.body, (toy_sign(checkpoint.body, LOG),))
    assert Checkpoint.parse_body(SignedNote.parse(note.encode()).text) == checkpoint


ROOT = b64encode(bytes(range(32))).decode()
assert ROOT.endswith("Hh8=")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n",
        f"o\n1\n{ROOT}",
        "o\n1\n",
        f"\n1\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        f"o\n01\n{ROOT}\n",
        f"o\n00\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n-0\n{ROOT}\n",
        f"o\n 1\n{ROOT}\n",
        f"o\n1_0\n{ROOT}\n",
        f"o\n\uff11\n{ROOT}\n",
        f"o\n{MAX_TREE_SIZE + 1}\n{ROOT}\n",
        f"o\n1{'0' * 5000}\n{ROOT}\n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT[:-2]}9=\n",
        f"o\n1\n{ROOT}=\n",
        f"o\n1\n{ROOT[:4]}\n",
        f"o\n1\n {ROOT}\n",
        f"o\n1\n{ROOT[:-4]}\n",
        f"o\n1\n{b64encode(bytes(33)).decode()}\n",
        f"o\n1\n{b64encode(bytes([255] * 32)).decode().replace('/', '_')}\n",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\n\nx\n",
        f"o\n1\n{ROOT}\nx",
        f"o\r\n1\r\n{ROOT}\r\n",
        f"o\n1\n{ROOT}\nx\r\n",
        f"o\n1\n{ROOT}\nx\ty\n",
        f"o\ud800\n1\n{ROOT}\n",
    ],
    ids=ascii,
)
def test_a_body_that_no_checkpoint_has_is_refused(body):
    with pytest.raises(ValueError):
        Checkpoint.parse_body(body)


@given(st.text(alphabet="o01\n+-=A \r", max_size=12).map(lambda text: text.replace("A", ROOT)))
@example(f"o\n0\n{ROOT}\n")
def test_a_body_that_is_accepted_is_that_of_the_checkpoint(body):
    try:
        checkpoint = Checkpoint.parse_body(body)
    except ValueError:
        return
    assert checkpoint.body == body


@pytest.mark.parametrize(
    "fields",
    [
        ("", 1, bytes(32)),
        ("a\nb", 1, bytes(32)),
        ("a\x00", 1, bytes(32)),
        ("a", -1, bytes(32)),
        ("a", MAX_TREE_SIZE + 1, bytes(32)),
        ("a", 1, bytes(31)),
        ("a", 1, bytes(32), ("",)),
        ("a", 1, bytes(32), ("x", "y\n")),
    ],
)
def test_a_checkpoint_that_could_not_be_read_again_is_not_made(fields):
    with pytest.raises(ValueError):
        Checkpoint(*fields)


@settings(max_examples=50)
@given(NOTES)
@example(SignedNote("\n", NOTE.signatures))
@example(SignedNote("\n\n\n", NOTE.signatures))
@example(SignedNote(NOTE.encode(), NOTE.signatures))
@example(SignedNote(NOTE.encode() + "\n", NOTE.signatures))
def test_a_note_is_read_from_its_text(note):
    assert SignedNote.parse(note.encode()) == note


LINE = NOTE.signatures[0].line
NAME = LOG.name
BLOB = LINE.rpartition(" ")[2]
assert BLOB.endswith("=")
STRAY = BLOB[:-2] + chr(ord(BLOB[-2]) + 1) + "="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n",
        "text\n",
        "text\n\n",
        "text\n\n\n",
        f"text\n{LINE}\n",
        f"{LINE}\n",
        f"\n{LINE}\n",
        f"text\n\n{LINE}",
        f"text\n\n{LINE}\n\n",
        f"text\n\n{LINE}\ntext\n",
        f"text\n\n{LINE}\n{LINE}\n",
        f"text\n\n\n{LINE}\n{NOTE.signatures[0].line[:-8]}AAAAAAA=\n",
        f"text\r\n\r\n{LINE}\r\n",
        f"text\r\n\n{LINE}\n",
        f"text\n\n{LINE}\r\n",
        f"te\txt\n\n{LINE}\n",
        f"te\x00xt\n\n{LINE}\n",
        f"te\ud800xt\n\n{LINE}\n",
        f"text\n\n {LINE}\n",
        f"text\n\n{LINE} \n",
        f"text\n\n- {NAME} {BLOB}\n",
        f"text\n\n– {NAME} {BLOB}\n",
        f"text\n\n—{NAME} {BLOB}\n",
        f"text\n\n— {NAME}  {BLOB}\n",
        f"text\n\n— {NAME}\t{BLOB}\n",
        f"text\n\n— {NAME}\u00a0x {BLOB}\n",
        f"text\n\n— a+b {BLOB}\n",
        f"text\n\n— {BLOB}\n",
        f"text\n\n— {NAME} \n",
        f"text\n\n— {NAME} ====\n",
        f"text\n\n— {NAME} AAAA\n",
        f"text\n\n— {NAME} AAAAAA==\n",
        f"text\n\n— {NAME} {STRAY}\n",
        f"text\n\n— {NAME} {BLOB[:-1]}\n",
        f"text\n\n— {NAME} {BLOB}=\n",
        f"text\n\n— {NAME} {BLOB[:9]}={BLOB[10:]}\n",
        f"text\n\n— {NAME} {BLOB[:9]}é{BLOB[10:]}\n",
    ],
    ids=ascii,
)
def test_what_no_note_is_encoded_like_is_refused(text):
    with pytest.raises(ValueError):
        SignedNote.parse(text)


def test_a_stray_bit_at_the_end_of_base64_is_the_only_fault_of_its_example():
    assert b64decode(STRAY) == b64decode(BLOB)


def test_a_note_takes_a_bounded_number_of_signatures():
    many = tuple(NoteSignature(f"witness-{number}", bytes(4), b"s") for number in range(MAX_SIGNATURES + 1))
    assert SignedNote.parse(SignedNote("text\n", many[1:]).encode()).signatures == many[1:]
    for refused in ((), many):
        with pytest.raises(ValueError):
            SignedNote("text\n", refused)


@pytest.mark.parametrize("text", ["", "text", "te\rxt\n", "te\x00xt\n", "\ud800\n"])
def test_a_text_that_cannot_stand_in_a_note_is_not_signed(text):
    with pytest.raises(ValueError):
        toy_sign(text, LOG)
    with pytest.raises(ValueError):
        SignedNote(text, NOTE.signatures)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_not_taken_for_ed25519(length):
    with pytest.raises(ValueError):
        sign("text\n", LOG, lambda message: bytes(length))


def test_a_key_hash_of_another_length_is_refused():
    with pytest.raises(ValueError):
        NoteSignature("a", bytes(5), bytes(64))


def test_the_text_with_its_last_newline_is_signed_but_not_the_empty_line():
    signed = []
    sign("é\n", LOG, lambda message: signed.append(message) or bytes(64))
    assert signed == [b"\xc3\xa9\n"]


def test_the_keys_that_signed_are_told_in_the_order_of_their_signatures_and_others_are_ignored():
    text = CHECKPOINT.body
    unknown = toy_sign(text, STRANGER)
    note = SignedNote(text, (toy_sign(text, WITNESS), unknown, toy_sign(text, LOG)))
    assert note.verified_by([LOG, WITNESS], toy_verify) == [WITNESS, LOG]
    assert note.verified_by(iter([LOG, LOG]), toy_verify) == [LOG]
    assert note.verified_by([], toy_verify) == []
    assert note.unknown_signatures([LOG, WITNESS]) == [unknown]
    assert note.unknown_signatures([]) == list(note.signatures)


@pytest.mark.parametrize("signature", [bytes(64), bytes(63), toy_signature(LOG.public_key, b"another\n"), b"s"])
def test_a_bad_signature_of_a_known_key_spoils_the_note_whoever_else_signed(signature):
    text = CHECKPOINT.body
    note = SignedNote(text, (toy_sign(text, WITNESS), NoteSignature(LOG.name, LOG.key_hash, signature)))
    with pytest.raises(NoteError, match=LOG.name):
        note.verified_by([LOG, WITNESS], toy_verify)
    assert note.verified_by([WITNESS], toy_verify) == [WITNESS]


def test_a_signature_of_a_wrong_length_never_reaches_the_verifier():
    note = SignedNote("text\n", (NoteSignature(LOG.name, LOG.key_hash, bytes(65)),))
    with pytest.raises(NoteError):
        note.verified_by([LOG], lambda *_: True)


def test_a_key_that_shares_only_name_or_only_hash_with_a_signature_is_another_key():
    text = CHECKPOINT.body
    good = toy_sign(text, LOG)
    for other in (
        NoteSignature(LOG.name, WITNESS.key_hash, good.signature),
        NoteSignature(WITNESS.name, LOG.key_hash, good.signature),
    ):
        note = SignedNote(text, (other,))
        assert note.verified_by([LOG, WITNESS], toy_verify) == []
        assert note.unknown_signatures([LOG, WITNESS]) == [other]


def test_two_keys_that_cannot_be_told_apart_are_refused(monkeypatch):
    monkeypatch.setattr(VerifierKey, "key_hash", property(lambda key: b"same"))
    with pytest.raises(ValueError, match="two keys"):
        NOTE.verified_by([LOG, VerifierKey(LOG.name, bytes(32))], toy_verify)


TELLING_BYTES = b"\x00\t\n\r +-/0=Aa\x7f\x80\xa0\xe2"


def believed(encoded: bytes) -> bool:
    """Whether these bytes are a note that LOG signed; whatever they are, only a `ValueError` may say no."""
    try:
        return SignedNote.parse(encoded.decode()).verified_by([LOG], toy_verify) == [LOG]
    except ValueError:
        return False


def test_no_byte_of_a_note_can_be_changed_added_or_removed_without_losing_its_signature():
    encoded = NOTE.encode().encode()
    assert believed(encoded)
    for at in range(len(encoded)):
        assert not believed(encoded[:at] + encoded[at + 1 :]), at
        for byte in {*TELLING_BYTES, *(encoded[at] ^ 1 << bit for bit in range(8))} - {encoded[at]}:
            assert not believed(encoded[:at] + bytes([byte]) + encoded[at + 1 :]), (at, byte)
    for at in range(len(encoded) + 1):
        for byte in TELLING_BYTES:
            assert not believed(encoded[:at] + bytes([byte]) + encoded[at:]), (at, byte)


def test_a_changed_byte_of_an_unknown_signature_makes_another_note():
    text = CHECKPOINT.body
    encoded = SignedNote(text, (toy_sign(text, LOG), toy_sign(text, STRANGER))).encode()
    start = encoded.index("\n", encoded.index(LINE)) + 1
    read = set()
    for at in range(start, len(encoded)):
        for char in "\x00\n\r +-=/09AZaz—":
            try:
                note = SignedNote.parse(encoded[:at] + char + encoded[at + 1 :])
            except ValueError:
                continue
            assert note.encode() == encoded[:at] + char + encoded[at + 1 :]
            assert note.verified_by([LOG], toy_verify) == [LOG]
            read.add(note)
    assert len({note.encode() for note in read}) == len(read) > 1
