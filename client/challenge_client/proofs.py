"""Checks the proof of a verdict, with no database and no server; comes with the extra `proof`."""

from collections.abc import Sequence
from pathlib import Path

from challenge_rules.notes import VerifierKey
from challenge_rules.proof import ProofError, Proved, check_proof, explain

__all__ = ["ProofError", "Proved", "VerifierKey", "explain", "parse_key", "verify_proof"]

MAX_KEY_BYTES = 10_000


def verify_proof(proof: bytes, keys: Sequence[VerifierKey | str]) -> Proved:
    """What a proof proves; `ProofError` says where and why it proves nothing.

    `proof` is the whole file that `challenge-engine prove` wrote, `keys` are the public keys that its checkpoint may be
    signed by, as text or parsed. Everything in the file is made again from its terms and trades by the rules and
    compared byte by byte; then its head is followed to the root of the signed tree.
    """
    return check_proof(proof, [VerifierKey.parse(key) if isinstance(key, str) else key for key in keys], _verify)


def parse_key(text: str) -> VerifierKey:
    """A public key given as its text, or as the name of a file that holds it; `ValueError` when it is neither."""
    path = Path(text)
    if "+" not in text or _is_file(path):
        try:
            with path.open("rb") as file:
                text = file.read(MAX_KEY_BYTES).decode(errors="replace").strip()
        except OSError as error:
            raise ValueError(f"cannot read the key {path}: {error.strerror}") from None
    return VerifierKey.parse(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A key's text may be longer than the name of a file can be.
        return False


def _verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    # Loaded here, because only the extra brings it along.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
