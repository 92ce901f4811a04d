"""What an operator can set, checked once at start."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from challenge_engine.trading import MAX_GROUP

DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_MAX_CLOCK_SKEW_S = 5.0
MAX_WORKERS = 16


class AddressError(RuntimeError):
    """The address cannot be listened on; the message says why."""


class SettingsError(ValueError):
    """A setting is not usable; the message names it and what is allowed."""


def parse_count(option: str, text: str, largest: int) -> int:
    """The value of an option that counts from 1 to `largest`."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(largest)) and 1 <= int(text) <= largest:
        return int(text)
    raise SettingsError(f"{option} must be a whole number from 1 to {largest}, got {text[:100]!r}")


def parse_position(option: str, text: str) -> int:
    """The value of an option that is a position in the log, 0 or more."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    raise SettingsError(f"{option} must be a whole number from 0, got {text[:100]!r}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """HOST:PORT, the host of IPv6 in brackets."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise SettingsError(
                f"--listen must be HOST:PORT such as {DEFAULT_LISTEN} or [::1]:50051, got {text[:100]!r}"
            )
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise SettingsError(f"--listen: put an IPv6 address in brackets, such as [::1]:50051; got {text!r}")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        bare = self.host.strip("[]")
        if bare == "localhost":
            return True
        try:
            return ipaddress.ip_address(bare).is_loopback
        except ValueError:
            return False

    async def require_free(self) -> None:
        """Raise `AddressError` unless every address behind the host can be listened on.

        grpc is content with one of several: a second server on `localhost` would share half of the first one's callers.
        """
        await self._claim(None)

    @asynccontextmanager
    async def reserved(self) -> AsyncIterator["Address"]:
        """This address with its port, kept for processes of ours that share it; `AddressError` when it is not free.

        Sockets that never accept a connection keep it, so that it stays ours while a process is started again.
        """
        with ExitStack() as kept:
            yield Address(self.host, await self._claim(kept))

    async def _claim(self, kept: ExitStack | None) -> int:
        """Have every address behind the host for a moment, or for as long as `kept`; returns the port."""
        port = self.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self.host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except OSError as error:
            raise AddressError(f"cannot listen on {self}: {error.strerror}") from None
        # A file of hosts may name an address twice.
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address[0], port, *address[2:]))
                    probe.listen()
                    if kept is not None:
                        kept.enter_context(_keep_port(probe))
                        port = probe.getsockname()[1]
            except OSError as error:
                # A machine without IPv6 may still name ::1 for localhost.
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                    continue
                reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror
                raise AddressError(f"cannot listen on {self}: {reason}") from None
        return port

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _keep_port(listening: socket.socket) -> socket.socket:
    """A socket on the same port that does not listen, and lets those of this user join who are willing to share it.

    Nobody can get in between, because a listening socket has the port for itself until it is told to share.
    """
    keeper = socket.socket(listening.family, listening.type, listening.proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections of an earlier server may linger. It is off again below: it lets servers in that do not share.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listening.family == socket.AF_INET6:
            keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        keeper.bind(listening.getsockname())
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        keeper.close()
        raise
    return keeper


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Which database: the one of `url`, or without it the embedded PostgreSQL in `data_dir` (None: the user's own)."""

    url: str | None = None
    data_dir: Path | None = None

    @classmethod
    def parse(cls, url: str | None, data_dir: str | None) -> "DatabaseSettings":
        """What was given as options or environment. Empty ones are refused: a forgotten secret is not a choice."""
        if url == "":
            raise SettingsError("--database-url (CHALLENGE_DATABASE_URL) is empty: give a URL, or do not set it at all")
        if data_dir == "":
            raise SettingsError("--data-dir (CHALLENGE_DATA_DIR) is empty: give a directory, or do not set it at all")
        if url is not None and data_dir is not None:
            raise SettingsError("give --database-url or --data-dir, not both: a data directory is for the embedded one")
        return cls(url, None if data_dir is None else Path(data_dir))


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of a server, the same for each of its processes."""

    listen: Address
    max_clock_skew_s: float = DEFAULT_MAX_CLOCK_SKEW_S
    insecure: bool = False
    workers: int = 1
    max_group: int = MAX_GROUP
    seal_keys: tuple[str, ...] = ()
    """Files of the keys that sign checkpoints; none: nothing is sealed."""
    adopt_tree: bool = False
    """Go on from a sealed tree that another key signed, which is lost."""
    checkpoint_dir: str | None = None
    """Where checkpoints are written to, beside the database."""

    def __post_init__(self) -> None:
        if not self.listen.is_loopback and not self.insecure:
            raise SettingsError(
                f"{self.listen} can be reached from other machines, and this release has no TLS and no authentication:"
                " listen on a loopback address, or pass --insecure when something in front protects it"
            )
        if not 0 <= self.max_clock_skew_s <= 3600:
            raise SettingsError(f"--max-clock-skew must be 0 to 3600 seconds, got {self.max_clock_skew_s:g}")
