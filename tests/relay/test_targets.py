"""The URLs of brokers: what they mean, what is refused, and that no password is shown."""

import pytest

from challenge_server.relay.targets import AmqpTarget, KafkaTarget, RedisTarget, conceal, parse_target
from challenge_server.settings import SettingsError

SECRET = "geheim/@:#"
QUOTED = "geheim%2F%40%3A%23"


STREAM, EXCHANGE = "challenge-events", "challenge-events"


@pytest.mark.parametrize(
    ("url", "target", "name"),
    [
        (
            "redis://h",
            RedisTarget("h", 6379, 0, STREAM, 0, tls=False, username=None, password=None),
            "redis://h:6379/0/challenge-events",
        ),
        (
            f"rediss://me:{QUOTED}@h:1/2?stream=s&maxlen=1000",
            RedisTarget("h", 1, 2, "s", 1000, tls=True, username="me", password=SECRET),
            "rediss://h:1/2/s",
        ),
        (
            f"redis://:{QUOTED}@[::1]:7",
            RedisTarget("::1", 7, 0, STREAM, 0, tls=False, username=None, password=SECRET),
            "redis://[::1]:7/0/challenge-events",
        ),
        (
            "amqp://h",
            AmqpTarget("h", 5672, "/", EXCHANGE, mandatory=True, tls=False, username="guest", password="guest"),
            "amqp://h:5672/%2F/challenge-events",
        ),
        (
            f"amqps://me:{QUOTED}@h/a%2Fb?exchange=e&mandatory=no",
            AmqpTarget("h", 5671, "a/b", "e", mandatory=False, tls=True, username="me", password=SECRET),
            "amqps://h:5671/a%2Fb/e",
        ),
        ("kafka://h/t", KafkaTarget(("h:9092",), "t", {}, None, None), "kafka://h:9092/t"),
        (
            f"kafka://me:{QUOTED}@a:1,[::1],b/t.x-y_z?sasl.mechanism=SCRAM-SHA-512",
            KafkaTarget(
                ("a:1", "[::1]:9092", "b:9092"),
                "t.x-y_z",
                {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"},
                "me",
                SECRET,
            ),
            "kafka://a:1,[::1]:9092,b:9092/t.x-y_z",
        ),
    ],
)
def test_a_url_names_its_target_and_the_name_has_no_credentials(url, target, name):
    parsed = parse_target(url)
    assert parsed == target
    assert parsed.password == target.password
    assert parsed.name == name
    assert "geheim" not in repr(parsed)


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ("", "must be a URL"),
        ("h:6379", "must be a URL"),
        ("http://{}h", "must be a URL"),
        ("redis://{}", "HOST:PORT"),
        ("redis://{}h:0", "HOST:PORT"),
        ("redis://{}h:65536", "HOST:PORT"),
        ("redis://{}h:x", "HOST:PORT"),
        ("redis://{}::1", "brackets"),
        ("redis://{}h/x", "number of the database"),
        ("redis://{}h,i", "one HOST:PORT"),
        ("redis://{}h?maxlen=-1", "maxlen"),
        ("redis://{}h?stream=", "stream="),
        ("redis://{}h?stream=a%20b", "stream="),
        ("redis://{}h?steam=x", "'steam'"),
        ("redis://{}h#x", "%23"),
        ("redis://{}h/0 1", "printable"),
        ("redis://{}" + "h" * 2000, "2000"),
        ("amqp://{}h?mandatory=maybe", "mandatory"),
        ("amqp://{}h?exchange=", "exchange="),
        ("amqp://{}h?exchange=a*b", "exchange="),
        ("amqp://{}h/" + "v" * 128, "virtual host"),
        ("kafka://{}h", "topic"),
        ("kafka://{}h/a/b", "topic"),
        ("kafka://{}h/ä", "topic"),
        ("kafka://{}h/t?sasl.password=geheim", "'sasl.password'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(rest, complaint):
    with pytest.raises(SettingsError) as refused:
        parse_target(rest.format("me:geheim@"))
    assert complaint in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_a_password_is_concealed_however_it_is_quoted():
    target = parse_target(f"redis://me:{QUOTED}@h")
    text = conceal(f"cannot reach redis://me:{QUOTED}@h, {SECRET}, geheim/%40%3A%23", target)
    assert text == "cannot reach redis://me:***@h, ***, ***"
    assert conceal("nothing to hide", parse_target("redis://h")) == "nothing to hide"
