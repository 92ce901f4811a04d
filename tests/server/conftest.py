"""What the server's tests start from: a stub for the server that they share, and a place for an embedded PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.engine.test_embedded import processes_of
from tests.server.calls import connected, eventually


@pytest.fixture(scope="session")
def real_stub(server_address: str) -> Iterator[ChallengeServiceStub]:
    """The shared server, over a connection that lasts as long as the run."""
    with connected(server_address) as stub:
        yield stub


@pytest.fixture(scope="session")
def fake_stub(fake_address: str) -> Iterator[ChallengeServiceStub]:
    """The fake server of `challenge_client.testing`, which has to do as the real one does."""
    with connected(fake_address) as stub:
        yield stub


@pytest.fixture(params=["server"])
def stub(request: pytest.FixtureRequest) -> ChallengeServiceStub:
    """The shared server; the modules that hold both servers to the contract override this."""
    return either(request)


def either(request: pytest.FixtureRequest) -> ChallengeServiceStub:
    """The stub of the server that the parameter names."""
    found: ChallengeServiceStub = request.getfixturevalue({"server": "real_stub", "fake": "fake_stub"}[request.param])
    return found


@pytest.fixture
def embedded_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory of the test's own, in which nothing may run afterwards."""
    directory = tmp_path / "data"
    yield directory
    eventually(lambda: not any(processes_of(directory).values()))
