"""For your own tests: a server without a database, in your process, whose verdicts are the real ones.

    from challenge_client.testing import FakeChallengeServer

    with FakeChallengeServer() as server, server.client() as client:
        challenge = client.create_challenge(initial_balance="100000")

It decides with the rules that the service itself uses, answers every call of the contract over gRPC, and is held to the
same tests as the service. It keeps everything in memory and forgets it when it is closed.
"""

from challenge_client.testing.server import FakeChallengeServer

__all__ = ["FakeChallengeServer"]
