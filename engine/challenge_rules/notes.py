"""Checkpoints of a log and the signed notes that carry them, in the text formats of the transparency community.

A note is a text with signatures below it (https://c2sp.org/signed-note); a checkpoint is such a text that names a log,
the size of its Merkle tree and its root (https://c2sp.org/tlog-checkpoint). One value has one text: whatever is read
here is written again byte for byte, and any other spelling is a `ValueError`. Texts are `str`, to be encoded and
decoded as UTF-8 with line ends left alone. Cryptography is the caller's: signing and verifying with raw Ed25519 (RFC
8032) are passed in.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

KEY_NAME = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")
"""A key's name is not empty and has neither Unicode spaces nor a plus; control characters would not fit into a note."""

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_HASH_BYTES = 4
ROOT_BYTES = 32

MAX_TREE_SIZE = 2**63 - 1
"""What a signed 64-bit integer holds, as other implementations and PostgreSQL store it."""
MAX_SIGNATURES = 100
"""A note with more signatures is refused; the format asks for at least 16, and Go's implementation takes 100."""

Sign = Callable[[bytes], bytes]
"""Signs a message: the Ed25519 signature, 64 bytes."""
Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether (public key, signature, message) belong together; must not raise for a bad signature."""

_ED25519 = b"\x01"
_EM_DASH = "\u2014"
_TEXT = re.compile(r"[^\x00-\x09\x0b-\x1f\ud800-\udfff]*\n")
_LINE = re.compile(r"[^\x00-\x1f\ud800-\udfff]+")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_VERIFIER_KEY = re.compile(r"([^+]+)\+([0-9a-f]{8})\+(.+)")
_SIGNATURE_LINE = re.compile(_EM_DASH + r" ([^ ]+) ([^ ]+)")


class NoteError(ValueError):
    """A signature of a known key is bad, so the whole note is not to be believed."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 public key of 32 bytes. Its text, `<name>+<key hash>+<key>`, is what a verifier is given."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            raise ValueError(f"an Ed25519 public key must be {PUBLIC_KEY_BYTES} bytes, not {len(self.public_key)}")

    def __str__(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{_to_base64(_ED25519 + self.public_key)}"

    @property
    def key_hash(self) -> bytes:
        """The 4 bytes that tell this key from others of its name: an identifier, too short to prove anything."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:KEY_HASH_BYTES]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key of such a text; `ValueError` if it has another form, or its hash is not that of name and key."""
        match = _VERIFIER_KEY.fullmatch(text)
        if match is None:
            raise ValueError("a verifier key has the form <name>+<8 lower-case hex digits>+<base64>")
        name, key_hash, encoded = match.groups()
        key = _from_base64(encoded, "the key")
        if key[:1] != _ED25519:
            raise ValueError("the verifier key is not of Ed25519")
        parsed = cls(name, key[1:])
        if parsed.key_hash.hex() != key_hash:
            raise ValueError("the verifier key's hash is not that of its name and key; was it copied in full?")
        return parsed


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: that its first `tree_size` leaves have the Merkle root `root`.

    `origin` names the log for ever. `extensions` are further lines, whose meaning is the log's own.
    """

    origin: str
    tree_size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if _LINE.fullmatch(line) is None:
                raise ValueError("a checkpoint's line must not be empty nor have control characters")
        if not 0 <= self.tree_size <= MAX_TREE_SIZE:
            raise ValueError(f"a tree size must lie between 0 and {MAX_TREE_SIZE}")
        if len(self.root) != ROOT_BYTES:
            raise ValueError(f"a root must be {ROOT_BYTES} bytes, not {len(self.root)}")

    @property
    def body(self) -> str:
        """The text to sign; ends with a newline."""
        lines = (self.origin, str(self.tree_size), _to_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse_body(cls, text: str) -> Self:
        """The checkpoint that has exactly this body; `ValueError` if none has."""
        *lines, rest = text.split("\n")
        if rest or len(lines) < 3:
            raise ValueError("a checkpoint has three lines or more, each ended by a newline")
        origin, tree_size, root, *extensions = lines
        if _DECIMAL.fullmatch(tree_size) is None:
            raise ValueError("a checkpoint's second line must be the tree size, in decimal without leading zeros")
        return cls(origin, int(tree_size), _from_base64(root, "the root"), tuple(extensions))


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature of a note, by the key of this name and hash; what it is made of depends on the key's kind."""

    name: str
    key_hash: bytes
    signature: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.key_hash) != KEY_HASH_BYTES:
            raise ValueError(f"a key hash must be {KEY_HASH_BYTES} bytes, not {len(self.key_hash)}")
        if not self.signature:
            raise ValueError("a signature must not be empty")

    @property
    def line(self) -> str:
        """The signature as a line of the note, without its newline."""
        return f"{_EM_DASH} {self.name} {_to_base64(self.key_hash + self.signature)}"

    @classmethod
    def parse_line(cls, line: str) -> Self:
        """The signature that has exactly this line; `ValueError` if none has."""
        match = _SIGNATURE_LINE.fullmatch(line)
        if match is None:
            raise ValueError("a signature line has the form \u2014 <name> <base64>")
        name, encoded = match.groups()
        blob = _from_base64(encoded, "the signature")
        return cls(name, blob[:KEY_HASH_BYTES], blob[KEY_HASH_BYTES:])


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A text that ends with a newline, and its signatures: one at least, MAX_SIGNATURES at most, one per key.

    That it was read does not mean that anybody signed it: ask `verified_by` before believing a word.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        _check_text(self.text)
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise ValueError(f"a note must have 1 to {MAX_SIGNATURES} signatures, not {len(self.signatures)}")
        if len({(one.name, one.key_hash) for one in self.signatures}) != len(self.signatures):
            raise ValueError("a note must not have two signatures of one key")

    def encode(self) -> str:
        """The whole note: its text, an empty line, and a line per signature."""
        return f"{self.text}\n" + "".join(f"{one.line}\n" for one in self.signatures)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The note that is encoded exactly like this; `ValueError` if none is."""
        # The text may have empty lines of its own; the last one is where the signatures begin.
        body, separator, below = text.rpartition("\n\n")
        *lines, rest = below.split("\n")
        if not separator or rest:
            raise ValueError("a note has a text, an empty line and signatures, and ends with a newline")
        return cls(f"{body}\n", tuple(NoteSignature.parse_line(line) for line in lines))

    def verified_by(self, keys: Iterable[VerifierKey], verify: Verify) -> list[VerifierKey]:
        """Those of the keys that signed the text, in the order of the signatures; none: do not believe the note.

        Signatures of other keys are ignored, as the format demands. Raises `NoteError` if a signature of one of the
        keys is bad, and `ValueError` if two different keys have the same name and hash.
        """
        known = _by_identity(keys)
        message = self.text.encode()
        verified = []
        for one in self.signatures:
            key = known.get((one.name, one.key_hash))
            if key is None:
                continue
            if len(one.signature) != SIGNATURE_BYTES or not verify(key.public_key, one.signature, message):
                raise NoteError(f"the signature of {one.name}+{one.key_hash.hex()} is bad")
            verified.append(key)
        return verified

    def unknown_signatures(self, keys: Iterable[VerifierKey]) -> list[NoteSignature]:
        """The signatures that are not of these keys, such as those of witnesses; nothing is known about them."""
        known = _by_identity(keys)
        return [one for one in self.signatures if (one.name, one.key_hash) not in known]


def sign(text: str, key: VerifierKey, sign_bytes: Sign) -> NoteSignature:
    """The signature of a note's text, which ends with a newline, by the private half of the key.

    `ValueError` if the text cannot stand in a note, or what `sign_bytes` gives is not 64 bytes.
    """
    _check_text(text)
    signature = sign_bytes(text.encode())
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"an Ed25519 signature must be {SIGNATURE_BYTES} bytes, not {len(signature)}")
    return NoteSignature(key.name, key.key_hash, signature)


def _by_identity(keys: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_hash), key) != key:
            raise ValueError(f"two keys are called {key.name}+{key.key_hash.hex()}")
    return known


def _check_name(name: str) -> None:
    if KEY_NAME.fullmatch(name) is None:
        raise ValueError("a key name must not be empty nor have spaces, control characters or a plus")


def _check_text(text: str) -> None:
    if _TEXT.fullmatch(text) is None:
        raise ValueError("a note's text must end with a newline and have no other control characters")


def _to_base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _from_base64(text: str, what: str) -> bytes:
    """The bytes of standard base64 with padding. Spellings that merely decode, with stray final bits, are refused."""
    try:
        data = b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{what} is not base64") from error
    if _to_base64(data) != text:
        raise ValueError(f"{what} is not canonical base64")
    return data
