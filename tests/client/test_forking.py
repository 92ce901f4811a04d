"""A process that was forked while a client was in use. Each runs by itself, where nothing else has threads."""

import subprocess
import sys

import pytest

PRELUDE = """
import os, sys, faulthandler
faulthandler.dump_traceback_later(50, exit=True)
from challenge_client import AsyncChallengeClient, ChallengeClient
target = sys.argv[1]

def in_child(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work() or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(script: str, server_address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, server_address],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("times", [1, 3])
def test_the_client_for_threads_goes_on_in_the_child_and_in_the_parent(server_address, times):
    run(
        f"""
client = ChallengeClient(target, timeout_s=20)
made = client.create_challenge(initial_balance="100000")

def work():
    assert client.get_challenge(made.challenge_id).challenge_id == made.challenge_id
    event = next(client.stream_events(challenge_ids=[made.challenge_id], from_beginning=True)).event
    assert event.challenge_id == made.challenge_id

for _ in range({times}):
    assert in_child(work) == 0
    assert client.get_challenge(made.challenge_id).last_sequence == 0
client.close()
""",
        server_address,
    )


def test_a_client_made_before_the_fork_and_used_after_it_connects_in_the_child(server_address):
    run(
        """
client = ChallengeClient(target, timeout_s=20)
assert in_child(lambda: client.create_challenge(initial_balance="1").last_sequence) == 0
""",
        server_address,
    )


def test_many_threads_of_the_child_share_one_new_channel(server_address):
    run(
        """
import threading
client = ChallengeClient(target, timeout_s=20)
made = client.create_challenge(initial_balance="100000")
held = client._connection._lock

def work():
    failed = []

    def ask():
        try:
            client.get_challenge(made.challenge_id)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(failed)

with held:  # as another thread of the parent might at the moment of the fork
    assert in_child(work) == 0
""",
        server_address,
    )


def test_a_closed_client_stays_closed_in_the_child(server_address):
    run(
        """
client = ChallengeClient(target)
client.close()

def work():
    try:
        client.get_challenge("x")
    except RuntimeError as error:
        return 0 if "is closed" in str(error) else 2
    return 3

assert in_child(work) == 0
""",
        server_address,
    )


def test_a_channel_of_ones_own_does_not_survive_a_fork(server_address):
    run(
        """
import grpc
client = ChallengeClient(channel=grpc.insecure_channel(target))
client.create_challenge(initial_balance="1")

def work():
    try:
        client.get_challenge("x")
    except RuntimeError as error:
        return 0 if "does not survive a fork" in str(error) else 2
    return 3

assert in_child(work) == 0
""",
        server_address,
    )


def test_the_client_for_asyncio_says_in_the_child_what_to_do(server_address):
    run(
        """
import asyncio
client = AsyncChallengeClient(target)

async def main():
    made = await client.create_challenge(initial_balance="1")

    def work():
        try:
            client.get_challenge(made.challenge_id).send(None)
        except RuntimeError as error:
            return 0 if "make a new client in the new process" in str(error) else 2
        return 3

    assert in_child(work) == 0
    assert (await client.get_challenge(made.challenge_id)).challenge_id == made.challenge_id
    await client.close()

asyncio.run(main())
""",
        server_address,
    )
