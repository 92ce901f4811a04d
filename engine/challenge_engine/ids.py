"""Identifiers that the service makes."""

import secrets
import uuid


def uuid7(now: int) -> str:
    """A UUID of version 7 (RFC 9562, 5.7) for a moment in microseconds: 48 bits of milliseconds, 74 random bits."""
    milliseconds = now // 1000 & (1 << 48) - 1
    value = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))
