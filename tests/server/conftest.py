"""A stub for the server that tests share."""

from collections.abc import Iterator

import pytest

from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.server.calls import connected


@pytest.fixture(scope="session")
def stub(server_address: str) -> Iterator[ChallengeServiceStub]:
    """The shared server, over a connection that lasts as long as the run."""
    with connected(server_address) as stub:
        yield stub
