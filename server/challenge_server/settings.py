"""What an operator can set, checked once at start."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_MAX_CLOCK_SKEW_S = 5.0


class SettingsError(ValueError):
    """A setting is not usable; the message names it and what is allowed."""


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

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of one server process. `database_url` None means the embedded PostgreSQL in `data_dir`."""

    listen: Address
    database_url: str | None
    data_dir: Path | None
    max_clock_skew_s: float = DEFAULT_MAX_CLOCK_SKEW_S
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.listen.is_loopback and not self.insecure:
            raise SettingsError(
                f"{self.listen} can be reached from other machines, and this release has no TLS and no authentication:"
                " listen on a loopback address, or pass --insecure when something in front protects it"
            )
        if self.database_url is not None and self.data_dir is not None:
            raise SettingsError("give --database-url or --data-dir, not both: a data directory is for the embedded one")
        if not 0 <= self.max_clock_skew_s <= 3600:
            raise SettingsError(f"--max-clock-skew must be 0 to 3600 seconds, got {self.max_clock_skew_s:g}")
