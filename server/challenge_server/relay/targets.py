"""Where a relay is to bring the events: the URL an operator gives, taken apart and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from challenge_server.settings import SettingsError

MAX_URL_LENGTH = 2000
CONCEALED = "***"
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "kafka": 9092}
EXAMPLES = "redis://host:6379/0, amqp://user:password@host:5672/vhost or kafka://host:9092/topic"
DEFAULT_STREAM = "challenge-events"
DEFAULT_EXCHANGE = "challenge-events"
MARKS = "_.:@#,/+-"
NAME = re.compile(rf"[A-Za-z0-9{MARKS}]{{1,127}}")
"""The names of exchanges that every library sends, and of streams."""
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
KAFKA_OPTIONS = (
    "security.protocol", "sasl.mechanism", "ssl.ca.location", "ssl.certificate.location", "ssl.key.location",
)  # fmt: skip
"""What of librdkafka's configuration may stand in the URL. Secrets may not: they go where the password goes."""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A stream of a Redis server. `max_length` is about how many entries it is trimmed to; 0 never trims."""

    host: str
    port: int
    database: int
    stream: str
    max_length: int
    tls: bool
    username: str | None
    password: str | None = field(repr=False)

    @property
    def name(self) -> str:
        """Names the target without credentials."""
        return (
            f"{'rediss' if self.tls else 'redis'}://{_host_text(self.host)}:{self.port}/{self.database}/{self.stream}"
        )


@dataclass(frozen=True, slots=True)
class AmqpTarget:
    """A topic exchange of a RabbitMQ server. `mandatory`: an event that no queue takes is an error, not lost."""

    host: str
    port: int
    virtual_host: str
    exchange: str
    mandatory: bool
    tls: bool
    username: str
    password: str = field(repr=False)

    @property
    def name(self) -> str:
        """Names the target without credentials."""
        path = f"{quote(self.virtual_host, safe='')}/{self.exchange}"
        return f"{'amqps' if self.tls else 'amqp'}://{_host_text(self.host)}:{self.port}/{path}"


@dataclass(frozen=True, slots=True)
class KafkaTarget:
    """A topic of a Kafka cluster, known by some of its servers. `options` is configuration for librdkafka."""

    servers: tuple[str, ...]
    topic: str
    options: Mapping[str, str]
    username: str | None
    password: str | None = field(repr=False)

    @property
    def name(self) -> str:
        """Names the target without credentials."""
        return f"kafka://{','.join(self.servers)}/{self.topic}"


Target = RedisTarget | AmqpTarget | KafkaTarget


def parse_target(url: str) -> Target:
    """The target of a URL; `SettingsError` says what is wrong with it, without its credentials."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in PORTS:
        raise SettingsError(f"--to must be a URL such as {EXAMPLES}")
    if len(url) > MAX_URL_LENGTH or not url.isprintable() or " " in url:
        raise SettingsError(f"--to must be a URL of printable characters, at most {MAX_URL_LENGTH}")
    parts = _Parts.of(url)
    match scheme:
        case "redis" | "rediss":
            target: Target = _redis(parts)
        case "amqp" | "amqps":
            target = _amqp(parts)
        case _:
            target = _kafka(parts)
    parts.require_all_taken()
    return target


def conceal(text: str, target: Target) -> str:
    """A text without the password, as it is or as it stands in a URL; whoever wrote it may have quoted that."""
    if target.password:
        for secret in {target.password, quote(target.password, safe=""), quote(target.password)}:
            text = text.replace(secret, CONCEALED)
    return text


@dataclass(slots=True)
class _Parts:
    """The pieces of a URL; each option is taken once."""

    scheme: str
    username: str | None
    password: str | None
    servers: list[tuple[str, int]]
    path: str
    options: dict[str, str]

    @classmethod
    def of(cls, url: str) -> "_Parts":
        split = urlsplit(url)
        credentials, at, places = split.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        options = dict(parse_qsl(split.query, keep_blank_values=True))
        if split.fragment:
            raise SettingsError("--to has a # in it: write it as %23 within a password or a name")
        return cls(
            split.scheme,
            unquote(username) or None if at else None,
            unquote(password) or None if at else None,
            [_server(place, PORTS[split.scheme]) for place in places.split(",")],
            split.path.removeprefix("/"),
            options,
        )

    @property
    def only_server(self) -> tuple[str, int]:
        if len(self.servers) > 1:
            raise SettingsError(f"--to: {self.scheme}:// takes one HOST:PORT")
        return self.servers[0]

    def name_option(self, option: str, default: str) -> str:
        name = self.options.pop(option, default)
        if not NAME.fullmatch(name):
            raise SettingsError(f"--to: {option}= must be a name of at most 127 letters, digits and any of {MARKS}")
        return name

    def require_all_taken(self) -> None:
        if self.options:
            raise SettingsError(f"--to: {self.scheme}:// knows no option {', '.join(map(repr, sorted(self.options)))}")


def _redis(parts: _Parts) -> RedisTarget:
    host, port = parts.only_server
    return RedisTarget(
        host,
        port,
        _number("the path, which is the number of the database,", parts.path or "0"),
        parts.name_option("stream", DEFAULT_STREAM),
        _number("maxlen=", parts.options.pop("maxlen", "0")),
        parts.scheme == "rediss",
        parts.username,
        parts.password,
    )


def _amqp(parts: _Parts) -> AmqpTarget:
    host, port = parts.only_server
    mandatory = parts.options.pop("mandatory", "yes")
    if mandatory not in ("yes", "no"):
        raise SettingsError("--to: mandatory= must be yes or no")
    virtual_host = unquote(parts.path) or "/"
    if len(virtual_host) > 127:
        raise SettingsError("--to: the path, which is the virtual host, must have at most 127 characters")
    return AmqpTarget(
        host,
        port,
        virtual_host,
        parts.name_option("exchange", DEFAULT_EXCHANGE),
        mandatory == "yes",
        parts.scheme == "amqps",
        parts.username or "guest",
        parts.password or ("guest" if parts.username is None else ""),
    )


def _kafka(parts: _Parts) -> KafkaTarget:
    topic = parts.path
    if not TOPIC.fullmatch(topic):
        raise SettingsError("--to: kafka:// needs a topic as its path, of letters, digits, dots, - and _")
    options = {name: parts.options.pop(name) for name in KAFKA_OPTIONS if name in parts.options}
    if parts.username is not None:
        options.setdefault("security.protocol", "SASL_SSL")
        options.setdefault("sasl.mechanism", "PLAIN")
    servers = tuple(f"{_host_text(host)}:{port}" for host, port in parts.servers)
    return KafkaTarget(servers, topic, options, parts.username, parts.password)


def _server(place: str, default_port: int) -> tuple[str, int]:
    """HOST, HOST:PORT or [IPv6]:PORT."""
    bracket, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        bracket, port = place, str(default_port)
    host = bracket[1:-1] if bracket.startswith("[") and bracket.endswith("]") else bracket
    bad_port = not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535
    if not host or bad_port or (":" in host and not bracket.startswith("[")):
        raise SettingsError(
            f"--to: what follows {'//'} must be HOST:PORT; write IPv6 in brackets, escape @ and / as %40 %2F"
        )
    return host, int(port)


def _host_text(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _number(what: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    raise SettingsError(f"--to: {what} must be a whole number")
