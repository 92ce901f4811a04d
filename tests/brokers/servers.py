"""Real brokers on loopback, each with data of its own below a directory of the test run; only what is started is ended.

A server that is not installed fails the tests that need it: `.ci/install-brokers` installs them.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

START_DEADLINE_S = 90.0
PASSWORD = "geheim"
SERVER_PATH = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""The scripts of RabbitMQ itself come before those that Debian puts in front, which know one account and one place."""

KAFKA = """
import sys
from confluent_kafka import Producer
cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
for broker in cluster.list_topics(timeout=10).brokers.values():
    print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""
"""librdkafka's own cluster, which lives as long as the process that made it."""


def installed(program: str) -> str:
    """The path of a server's program; fails the test when there is none."""
    found = shutil.which(program, path=SERVER_PATH)
    if found is None:
        pytest.fail(f"{program} is not installed, and nothing is skipped: run .ci/install-brokers", pytrace=False)
    return found


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process of a broker, in a session of its own so that what it starts can be ended with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "output.log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Start the program, its output in the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until the server is as it should be; fails with its output when it ends or takes too long."""
        assert self.process is not None
        deadline = time.monotonic() + START_DEADLINE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{self.process.args} did not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal to all the server's processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        """End it at once; its data goes with the test."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


class RedisServer(Server):
    """Keeps its data in memory alone, so that after `end` and `start` it has lost all."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.program = installed("redis-server")
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Return once it answers."""
        self.launch(
            self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--requirepass", PASSWORD, "--save", "", "--appendonly", "no",
        )  # fmt: skip
        self.wait_until(lambda: _is_open(self.port))


class RabbitServer(Server):
    """With a port mapper of its own, since the one it would start outlives it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.program = installed("rabbitmq-server")
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        (directory / "epmd").mkdir()
        self.mapper = Server(directory / "epmd")

    def start(self) -> None:
        """Return once it serves."""
        mapper_port = free_port()
        self.mapper.launch(installed("epmd"), "-address", "127.0.0.1", "-port", str(mapper_port))
        self.mapper.wait_until(lambda: _is_open(mapper_port))
        files = {
            "HOME": ".", "RABBITMQ_MNESIA_BASE": "mnesia", "RABBITMQ_LOG_BASE": "log", "RABBITMQ_PID_FILE": "pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "plugins", "RABBITMQ_CONFIG_FILE": "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": "advanced.config", "RABBITMQ_CONF_ENV_FILE": "environment.conf",
            "RABBITMQ_GENERATED_CONFIG_DIR": "generated",
        }  # fmt: skip
        self.launch(
            self.program,
            environment={name: str(self.directory / file) for name, file in files.items()}
            | {
                "RABBITMQ_NODENAME": f"relay-{os.getpid()}@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(self.port),
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_LOGS": "-",
                "ERL_EPMD_PORT": str(mapper_port),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
            },
        )
        self.wait_until(lambda: "Server startup complete" in self.log.read_text())

    def end(self) -> None:
        """End the node, then its port mapper."""
        super().end()
        self.mapper.end()


class KafkaCluster(Server):
    """One broker of librdkafka's mock cluster, which speaks Kafka over TCP; topics are made when asked for."""

    servers = ""

    def start(self) -> None:
        """Return once it serves."""
        self.launch(sys.executable, "-c", KAFKA)
        self.wait_until(lambda: self.log.read_text().endswith("\n"))
        self.servers = self.log.read_text().strip()

    @property
    def url(self) -> str:
        """Without a topic."""
        return f"kafka://{self.servers}/"


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
