"""The examples of docs/subscribing.md run, and the one that promises exactly once keeps it under kill -9."""

import contextlib
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from challenge_client import ChallengeClient

DEFAULT_ADDRESS = "127.0.0.1:50051"
PATIENCE_S = 60.0
SMALL_MESSAGES = ("client.subscribe(", "client.subscribe(max_events_per_message=3, ")
MORTAL = """
import os, random, signal, sqlite3

left = random.randrange(40)

def live_or_die():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Mortal(sqlite3.Connection):
    def execute(self, *arguments):
        live_or_die()
        return super().execute(*arguments)

    def __exit__(self, *raised):
        live_or_die()
        answer = super().__exit__(*raised)
        live_or_die()
        return answer

connect = sqlite3.connect
sqlite3.connect = lambda path: connect(path, factory=Mortal)
"""
"""Makes the example kill itself soon, between any two statements, before COMMIT or after it."""


@pytest.fixture(scope="module")
def examples(project_root):
    text = (project_root / "docs" / "subscribing.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(found) == 3
    return dict(zip(("following", "exactly_once", "all_there_is"), found, strict=True))


@pytest.fixture
def address(start_server, database_url):
    """A server with a log of its own."""
    return start_server("--database-url", database_url.render_as_string(hide_password=False)).address


@pytest.fixture
def client(address):
    with ChallengeClient(address) as connected:
        yield connected


@pytest.fixture
def run(address, tmp_path):
    """Starts an example in the test's folder, and ends those that are left."""
    started = []

    def start(example):
        process = subprocess.Popen(
            [sys.executable, "-c", example.replace(DEFAULT_ADDRESS, address)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def mirrored(tmp_path):
    """What the example has written so far."""

    def read():
        with contextlib.closing(sqlite3.connect(tmp_path / "mirror.db")) as database:
            try:
                return database.execute("SELECT challenge_id, status FROM statuses ORDER BY rowid").fetchall()
            except sqlite3.OperationalError as error:
                assert "no such table" in str(error)  # noqa: PT017 -- it has not begun
                return []

    return read


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def recorded(client):
    return [(event.challenge_id, event.new_status) for event in client.list_events(page_size=1000)]


def test_following_prints_what_ends(examples, run, client):
    process = run(examples["following"])
    challenge = client.create_challenge(initial_balance=1000)
    client.submit_trade(challenge.challenge_id, trade_id="1", realized_pnl=-51, executed_at=datetime.now(UTC))
    assert process.stdout.readline() == f"{challenge.challenge_id} FAILED MAX_DAILY_DRAWDOWN\n"


def test_all_there_is_is_read_and_then_it_stops(examples, run, client):
    for _ in range(5):
        client.create_challenge(initial_balance=1000)
    until(lambda: len(recorded(client)) == 5)
    printed, errors = run(examples["all_there_is"]).communicate(timeout=PATIENCE_S)
    assert (printed, errors) == ("5 events up to position 5\n", "")


def test_exactly_once_under_kill_9_between_any_two_statements(examples, run, client, mirrored):
    for _ in range(90):
        client.create_challenge(initial_balance=1000)
    until(lambda: len(recorded(client)) == 90)
    example = MORTAL + examples["exactly_once"].replace(*SMALL_MESSAGES)
    deaths = 0
    while len(mirrored()) < 90:
        process = run(example)
        until(lambda: process.poll() is not None or len(mirrored()) >= 90)  # noqa: B023 -- called at once
        if process.poll() is not None:
            assert process.returncode == -9, process.stderr.read()
            deaths += 1
    assert deaths >= 3
    assert mirrored() == recorded(client)


def test_exactly_once_under_kill_9_from_outside_while_events_come_in(examples, run, client, mirrored):
    over = threading.Event()
    made = []

    def write():
        while not over.is_set():
            made.append(client.create_challenge(initial_balance=1000))
            over.wait(0.003)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            process = run(examples["exactly_once"].replace(*SMALL_MESSAGES))
            before = len(mirrored())
            until(lambda: len(mirrored()) > before or process.poll() is not None)  # noqa: B023 -- called at once
            time.sleep(random.random() / 20)  # the moment of the kill is to be any
            assert process.poll() is None, process.stderr.read()
            process.kill()
            process.wait()
    finally:
        over.set()
        writer.join()
    run(examples["exactly_once"])
    until(lambda: len(mirrored()) >= len(made) == len(recorded(client)))
    assert mirrored() == recorded(client)


def test_of_two_processes_that_handle_the_same_events_one_fails_and_each_event_is_handled_once(
    examples, run, client, mirrored
):
    processes = [run(examples["exactly_once"]) for _ in range(2)]

    made = []

    def one_failed():
        made.append(client.create_challenge(initial_balance=1000))
        return any(process.poll() is not None for process in processes)

    until(one_failed)
    (failed,) = (process for process in processes if process.poll() is not None)
    assert "another process handles these events, too" in failed.stderr.read()
    until(lambda: len(mirrored()) >= len(made) == len(recorded(client)))
    assert mirrored() == recorded(client)
