"""A client that another tool makes from the .proto alone runs a challenge from its creation to its end."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.calls import SERVICE, new_id

BUF = str(Path(sys.executable).parent / "buf")


class Curl:
    """`buf curl` with the schema of the contract."""

    def __init__(self, address: str, root: Path) -> None:
        self._address = address
        self._root = root

    def _command(self, method: str, request: dict[str, Any]) -> list[str]:
        options = ["--schema", "protos", "--protocol", "grpc", "--http2-prior-knowledge"]
        return [BUF, "curl", *options, "-d", json.dumps(request), f"http://{self._address}/{SERVICE}/{method}"]

    def run(self, method: str, request: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
        command = self._command(method, request)
        return subprocess.run(command, cwd=self._root, capture_output=True, text=True, timeout=60, check=False)

    def __call__(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        ended = self.run(method, request)
        assert ended.returncode == 0, ended.stderr
        answer: dict[str, Any] = json.loads(ended.stdout)
        return answer

    def stream(self, request: dict[str, Any], enough: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The messages of a stream up to one that is enough; then the tool is ended."""
        with subprocess.Popen(
            self._command("StreamEvents", request), cwd=self._root, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                return list(_messages(process.stdout, enough))
            finally:
                process.kill()


def _messages(lines: Any, enough: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """JSON documents, one after the other, each over one line or several."""
    text = ""
    for line in lines:
        text += line
        try:
            message = json.loads(text)
        except json.JSONDecodeError:
            continue
        text = ""
        yield message
        if enough(message):
            return
    raise AssertionError(f"the stream ended early, after {text!r}")


@pytest.fixture(scope="module")
def curl(server_address: str, project_root: Path) -> Curl:
    return Curl(server_address, project_root)


def trade(trade_id: str, pnl: str, executed_at: str) -> dict[str, Any]:
    return {"tradeId": trade_id, "realizedPnl": pnl, "executedAt": executed_at, "symbol": "EURUSD"}


def test_a_foreign_client_runs_a_challenge_and_follows_it(curl: Curl) -> None:
    challenge_id = new_id()
    terms = {"challengeId": challenge_id, "initialBalance": "100000.00", "labels": {"desk": "7"}}
    created = curl("CreateChallenge", terms)["challenge"]
    assert (created["challengeId"], created["status"]) == (challenge_id, "CHALLENGE_STATUS_PENDING")
    assert (created["equity"], created["version"], created["currencyCode"]) == ("100000", "1", "USD")
    limits = {"maxDailyDrawdownPct": "5", "maxTotalDrawdownPct": "10", "profitTargetPct": "10"}
    assert created["limits"] == limits

    first = {"challengeId": challenge_id, "trade": trade("t-1", "250.50", "2025-03-03T09:30:00.000001Z")}
    decision = curl("SubmitTrade", first)["decision"]
    assert (decision["sequence"], decision["status"], decision["equity"]) == (
        "1",
        "CHALLENGE_STATUS_ACTIVE",
        "100250.5",
    )
    assert (decision["executedAt"], len(decision["evaluations"])) == ("2025-03-03T09:30:00.000001Z", 3)

    more = [
        first,
        {"challengeId": challenge_id, "trade": trade("t-2", "1e5", "2025-03-03T10:00:00Z")},
        {"challengeId": challenge_id, "trade": trade("t-3", "-6000", "2025-03-03T11:00:00Z")},
    ]
    replayed, rejected, failed = curl("BatchSubmitTrades", {"trades": more})["results"]
    assert replayed["decision"] == decision | {"replayed": True}
    assert rejected["rejection"]["reason"] == "ERROR_REASON_VALIDATION_FAILED"
    assert rejected["rejection"]["fieldViolations"][0]["field"] == "trades[1].trade.realized_pnl"
    assert failed["decision"]["status"] == "CHALLENGE_STATUS_FAILED"
    assert failed["decision"]["reason"] == "RULE_MAX_DAILY_DRAWDOWN"

    challenge = curl("GetChallenge", {"challengeId": challenge_id})["challenge"]
    assert (challenge["equity"], challenge["lastSequence"]) == ("94250.5", "2")
    assert (challenge["tradingDay"], challenge["closedAt"]) == ("2025-03-03", "2025-03-03T11:00:00Z")

    messages = curl.stream(
        {"challengeIds": [challenge_id], "fromBeginning": {}, "heartbeatInterval": "1s"}, lambda m: "heartbeat" in m
    )
    events = [message["event"] for message in messages if "event" in message]
    assert [event["newStatus"].removeprefix("CHALLENGE_STATUS_") for event in events] == ["PENDING", "ACTIVE", "FAILED"]
    assert all(message["cursor"] for message in messages)
    assert any("caughtUp" in message for message in messages)


def test_a_foreign_client_reads_the_standard_details_of_an_error(curl: Curl) -> None:
    ended = curl.run("SubmitTrade", {"challengeId": new_id(), "trade": trade("t", "1", "2025-03-03T09:30:00Z")})
    assert ended.returncode != 0
    error = json.loads(ended.stderr)
    assert error["code"] == "not_found"
    (detail,) = error["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
