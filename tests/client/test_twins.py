"""The client for threads is made from the one for asyncio."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "client" / "twins.py"


@pytest.fixture(scope="module")
def twins():
    spec = importlib.util.spec_from_file_location("twins", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_client_is_what_the_other_one_makes(twins):
    assert twins.twin_of(twins.SOURCE.read_text()) == twins.TWIN.read_text()


def test_a_change_of_the_one_is_a_change_of_the_other(twins):
    source = twins.SOURCE.read_text().replace("async def close(self)", "async def shut(self)")
    assert "    def shut(self)" in twins.twin_of(source)


def test_what_no_rule_can_translate_is_refused(twins):
    source = twins.SOURCE.read_text()
    with pytest.raises(ValueError, match="no rule makes these lines wait"):
        twins.twin_of(source + "\nasyncio.sleep(1)\n")
    with pytest.raises(ValueError, match="exactly once"):
        twins.twin_of(source.replace("from one event loop", "from a loop"))
