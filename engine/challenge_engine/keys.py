"""The keys that sign checkpoints: Ed25519, kept as PEM files of PKCS #8, as OpenSSL makes them."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from challenge_rules.notes import NoteSignature, VerifierKey, sign

KEY_NAME = "challenge-engine"
"""The name of every key; they are told apart by their hashes."""
PUBLIC_SUFFIX = ".pub"
MAX_KEY_BYTES = 10_000


class KeyFileError(ValueError):
    """A key cannot be read or made; the message names the file and says what is expected."""


@dataclass(frozen=True, slots=True)
class SealKey:
    """A private key and the public one that verifies what it signed."""

    public: VerifierKey
    private: Ed25519PrivateKey

    def sign(self, text: str) -> NoteSignature:
        """The signature of a note's text."""
        return sign(text, self.public, self.private.sign)


def make_key(path: Path) -> SealKey:
    """A new key in `path`, readable by its owner alone, and its public half beside it with the suffix `.pub`.

    `KeyFileError` when there is a file already: a key is never overwritten.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = SealKey(_public(private), private)
    if not path.name or path.is_dir():
        raise KeyFileError(f"cannot write the key {str(path)!r}: it must be the name of a new file")
    if public_path(path).exists():
        raise KeyFileError(f"{public_path(path)} is there already; a key is never overwritten")
    try:
        # Whole or not at all, also when two processes make one at the same moment: the name appears with its content.
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        finally:
            beside.unlink()
    except FileExistsError:
        raise KeyFileError(f"{path} is there already; a key is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"cannot write the key {path}: {error.strerror}") from None
    _write_public(path, key)
    return key


def _write_public(path: Path, key: SealKey) -> None:
    try:
        public_path(path).write_text(f"{key.public}\n")
    except OSError as error:
        raise KeyFileError(f"cannot write {public_path(path)}: {error.strerror}") from None


def load_key(path: Path) -> SealKey:
    """The key of a PEM file; `KeyFileError` when it cannot be read, or holds anything but an Ed25519 private key."""
    content = _content(path)
    try:
        private = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path} must be an Ed25519 private key in PEM (PKCS #8), without a password") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds another kind of key; it must be Ed25519")
    return SealKey(_public(private), private)


def load_or_make_key(path: Path) -> SealKey:
    """The key of a file, made when there is none."""
    if not path.exists():
        try:
            return make_key(path)
        except KeyFileError:
            if not path.exists():
                raise
    key = load_key(path)
    if not public_path(path).exists():
        # A process that made the key was interrupted.
        _write_public(path, key)
    return key


def public_path(path: Path) -> Path:
    """Where the public half of a key lies."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def parse_public_key(text: str) -> VerifierKey:
    """A public key given as its text, or as the name of a file that holds it."""
    content = text
    try:
        if "+" not in text or Path(text).is_file():
            content = _content(Path(text)).decode(errors="replace")
    except OSError:
        pass
    except ValueError as error:
        raise KeyFileError(f"{text!r} is no public key: {error}") from None
    try:
        return VerifierKey.parse(content.strip())
    except ValueError as error:
        raise KeyFileError(f"{text[:200]} is no public key: {error}") from None


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature is good: what `notes` asks for."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(private: Ed25519PrivateKey) -> VerifierKey:
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return VerifierKey(KEY_NAME, raw)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot read the key {path}: {error.strerror}") from None
