"""What the package promises: its names, the sameness of the twins, and that it asks for nothing it may not use."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import challenge_client
from challenge_client import (
    AsyncChallengeClient,
    AsyncEventStream,
    AsyncSubscription,
    ChallengeClient,
    EventStream,
    Subscription,
)

PACKAGE = Path(challenge_client.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
OURS = {"propfirm", "challenge_rules", "challenge_wire", "challenge_client"}
ALLOWED = sys.stdlib_module_names | {"grpc", "google"} | OURS
FOR_THE_COMMAND_LINE = {"typer", "rich", "matplotlib"}
METHODS = (
    "close create_challenge get_challenge list_challenges list_events list_trades stream_events submit_batch"
    " submit_trade submit_trades subscribe wait_until_closed".split()
)
NAMES = """AsyncChallengeClient AsyncEventStream AsyncSubscription CaughtUp Challenge ChallengeArchivedError
    ChallengeClient ChallengeError ChallengeEvent ChallengeExistsError ChallengeNotFoundError ChallengeStatus
    ChallengeTerminalError ChallengeTerms CursorMismatchError DatabaseUnavailableError Decision Delivery
    DrainingError EquityOutOfRangeError ErrorReason EventBatch EventMessage EventStream EventType FieldViolation
    Heartbeat InternalFailureError Limits OutcomeUnknownError OverloadedError PredecessorFailedError
    RecordedTrade Rule RuleEvaluation SequenceMismatchError SequenceNotFoundError StreamMessage Subscription Trade
    TradeIdReusedError TradeInFutureError TradeOutOfOrderError TradeSubmission TransportError
    ValidationFailedError WriteConflictError spread_ties""".split()


def methods(kind):
    return {name: member for name, member in vars(kind).items() if inspect.isfunction(member) and name[0] != "_"}


def test_the_exported_names_are_these_and_all_are_there():
    assert challenge_client.__all__ == NAMES == sorted(NAMES)
    assert [name for name in NAMES if not hasattr(challenge_client, name)] == []


def test_both_clients_have_the_same_methods():
    assert sorted(methods(ChallengeClient)) == sorted(methods(AsyncChallengeClient)) == METHODS


@pytest.mark.parametrize("name", [*METHODS, "__init__"])
def test_both_clients_take_the_same_arguments_and_say_the_same_about_them(name):
    sync, asynchronous = getattr(ChallengeClient, name), getattr(AsyncChallengeClient, name)
    parameters, twins = (inspect.signature(method).parameters for method in (sync, asynchronous))
    assert list(parameters) == list(twins)
    for parameter in set(parameters) - {"channel", "submissions"}:
        assert parameters[parameter] == twins[parameter]
    assert inspect.getdoc(sync) == inspect.getdoc(asynchronous)


@pytest.mark.parametrize("name", METHODS)
def test_what_waits_is_a_coroutine_in_the_async_client_alone(name):
    assert not inspect.iscoroutinefunction(getattr(ChallengeClient, name))
    lazy = name.startswith("list_") or name in {"stream_events", "submit_trades", "subscribe"}
    assert inspect.iscoroutinefunction(getattr(AsyncChallengeClient, name)) is not lazy


def test_both_streams_can_be_closed():
    assert list(methods(EventStream)) == ["close"]
    assert list(methods(AsyncEventStream)) == ["aclose"]


def test_both_subscriptions_have_the_same_face_and_say_the_same_about_it():
    assert list(methods(Subscription)) == ["deliveries", "close"]
    assert list(methods(AsyncSubscription)) == ["deliveries", "aclose"]
    properties, twins = (
        {name: member for name, member in vars(kind).items() if isinstance(member, property)}
        for kind in (Subscription, AsyncSubscription)
    )
    assert sorted(properties) == sorted(twins) == ["caught_up", "cursor", "last_error", "position"]
    for name, member in properties.items():
        assert inspect.getdoc(member) == inspect.getdoc(twins[name])


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_what_the_package_depends_on_and_nothing_else(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = ALLOWED | FOR_THE_COMMAND_LINE if source.parent.name == "cli" else ALLOWED
    if source.name == "proofs.py":
        allowed = allowed | {"cryptography"}
    assert {name.split(".")[0] for name in names} <= allowed
    assert not [
        alias
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == "*"
    ]


def test_to_import_it_loads_neither_engine_nor_server_and_starts_no_thread():
    script = (
        "import sys, threading, challenge_client\n"
        "assert threading.active_count() == 1\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'challenge_engine', 'challenge_server', 'sqlalchemy', 'psycopg', 'asyncpg'}, loaded\n"
        "assert not loaded & {'typer', 'rich', 'matplotlib'}, loaded\n"
        "client = challenge_client.ChallengeClient('127.0.0.1:1')\n"
        "challenge_client.AsyncChallengeClient('127.0.0.1:1')\n"
        "assert threading.active_count() == 1\n"
        "client.close()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=30)
