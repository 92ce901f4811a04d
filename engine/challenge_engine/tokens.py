"""Opaque tokens: page tokens and stream cursors.

A token carries its payload and a digest that binds it to a kind and a scope (the log and the filter it was given for),
so that a token of another list, log or filter is recognised instead of silently skipping or repeating rows. The digest
guards against mistakes; a token grants nothing, so it needs no secret.
"""

import base64
import binascii
import hashlib
import json
from typing import Any

from challenge_rules.errors import FieldViolation, ValidationError

VERSION = b"\x01"
DIGEST_BYTES = 8
KEY_BYTES = 32
MAX_TOKEN_LENGTH = 512


class Sealer:
    """Makes tokens of one kind and scope. A scope is any value that JSON can express."""

    def __init__(self, kind: str, scope: object) -> None:
        bound_to = b"".join(_with_length(part.encode()) for part in (kind, json.dumps(scope, sort_keys=True)))
        self._hashed = hashlib.blake2b(bound_to, digest_size=DIGEST_BYTES)
        self.key = hashlib.blake2b(bound_to, digest_size=KEY_BYTES).digest()
        """The same for the same kind and scope, and for no other."""

    def seal(self, payload: list[Any]) -> str:
        """A token of the payload."""
        body = json.dumps(payload, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(VERSION + self.digest(body) + body).rstrip(b"=").decode()

    def digest(self, body: bytes) -> bytes:
        """What binds a token's body to the kind and scope."""
        hashed = self._hashed.copy()
        hashed.update(_with_length(body))
        return hashed.digest()


def seal(kind: str, scope: object, payload: list[Any]) -> str:
    """A token of `payload`, bound to `kind` and `scope` (any value that JSON can express)."""
    return Sealer(kind, scope).seal(payload)


def unseal(kind: str, scope: object, token: str) -> list[Any]:
    """The payload of a token; `ValueError` when it is malformed, or of another kind or scope."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise ValueError("the token is too long")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the token is malformed") from None
    body = raw[1 + DIGEST_BYTES :]
    if raw[:1] != VERSION or raw[1 : 1 + DIGEST_BYTES] != Sealer(kind, scope).digest(body):
        raise ValueError("the token is malformed, or belongs to another list, log or filter")
    payload: list[Any] = json.loads(body)
    return payload


def unseal_page(kind: str, scope: object, page_token: str) -> list[Any]:
    """The payload of a page token; `ValidationError` naming `page_token` when it is not one of this list."""
    try:
        return unseal(kind, scope, page_token)
    except ValueError:
        description = "must be the next_page_token of the page before, with the same filters"
        raise ValidationError([FieldViolation("page_token", description)]) from None


def _with_length(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part
