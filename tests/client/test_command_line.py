"""The `challenge` command line against a server: what it prints, and with which code it ends."""

import csv
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from typer.testing import CliRunner

from challenge_client import ChallengeClient, ChallengeNotFoundError, Trade, TradeSubmission
from challenge_client.cli import watching
from challenge_client.cli.charting import course_of
from challenge_client.cli.commands import app
from challenge_client.cli.outcomes import UsageError
from challenge_client.cli.output import sparkline
from challenge_client.cli.watching import Watch
from challenge_client.testing import FakeChallengeServer

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ACCOUNTS = {
    "0xae5eacaf9c6b9111fd53034a602c192a04e082ed": ("FUNDED", 118, 563, "110128.83967839"),
    "0x083384f897ee0f19899168e3b1bec365f52a9012": ("FAILED", 288, 1400, "94274.171867"),
}


@pytest.fixture
def fake():
    with FakeChallengeServer() as server:
        yield server


@pytest.fixture
def sdk(fake):
    with fake.client() as client:
        yield client


@pytest.fixture
def run(fake):
    return lambda *arguments: invoke(fake.address, *arguments)


def invoke(address, *arguments, code=0):
    done = CliRunner().invoke(app, ["--target", address, "--timeout", "5", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def shipped(project_root):
    return str(project_root / "server" / "challenge_server" / "data" / "hyperliquid_fills.csv")


def test_a_challenge_from_creation_to_its_end(run):
    arguments = ("--balance", "50000", "--daily", "4", "--label", "desk=7", "--currency", "EUR", "--json")
    (made,) = lines(run("create", *arguments))
    assert (made["status"], made["initial_balance"], made["labels"]) == ("PENDING", "50000", {"desk": "7"})
    ident = made["challenge_id"]
    (dry,) = lines(run("submit", ident, "--dry-run", "--json", "-2000.01"))
    assert (dry["status"], dry["recorded_at"]) == ("FAILED", None)
    arguments = ("submit", ident, "100.5", "--id", "t1", "--at", "2026-03-02T12:00:00Z", "--symbol", "ES")
    assert "ACTIVE" in run(*arguments).stdout
    assert "replayed" in run(*arguments).stdout
    (funded,) = lines(run("submit", ident, "5000", "--at", "2026-03-03T12:00:00Z", "--json"))
    assert (funded["status"], funded["equity"], funded["sequence"]) == ("FUNDED", "55100.5", 2)
    shown = run("get", ident).stdout
    assert "FUNDED" in shown
    assert "55,100.5" in shown
    assert lines(run("get", ident, "--at-sequence", "1", "--json"))[0]["status"] == "ACTIVE"
    assert [found["trade"]["trade_id"] for found in lines(run("trades", ident, "--to", "1", "--json"))] == ["t1"]
    assert "ES" in run("trades", ident).stdout
    assert [event["new_status"] for event in lines(run("events", ident, "--json"))] == ["PENDING", "ACTIVE", "FUNDED"]
    assert "ACTIVE → FUNDED" in run("events").stdout
    assert [found["challenge_id"] for found in lines(run("list", "--status", "funded", "--json"))] == [ident]
    assert ident in run("list").stdout
    assert lines(run("list", "--label", "desk=8", "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("get", "6f1b3e5c-0a52-4b7e-9a3d-5f2c8f0d7e11"), 1, "CHALLENGE_NOT_FOUND"),
        (("create", "--balance", "-5"), 1, "initial_balance: must be at least 0.01"),
        (("create", "--balance", "ten"), 2, "initial_balance must be a plain decimal number"),
        (("create", "--label", "desk"), 2, "--label must be KEY=VALUE"),
        (("submit", "x", "1", "--at", "noon"), 2, "--at must be a time in ISO 8601"),
        (("submit", "x", "1", "--at", "2026-03-02T12:00:00"), 2, "must be an aware datetime"),
        (("submit", "x", "1", "--id", "t1"), 2, "--id needs --at"),
        (("list", "--status", "broken"), 2, "broken"),
        (("import", "none.csv", "--preset", "hyperliquid"), 2, "cannot read none.csv"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_code_of_its_own(fake, arguments, code, says):
    done = invoke(fake.address, *arguments, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.output


def test_when_the_server_is_away_it_says_how_to_get_one():
    done = CliRunner().invoke(app, ["--target", "127.0.0.1:1", "--timeout", "0.5", "list"])
    assert done.exit_code == 3
    assert "no server answers at 127.0.0.1:1" in done.stderr
    assert "challenge-engine serve" in done.stderr


def test_when_it_stays_open_what_was_recorded_it_says_how_to_repeat_the_command(fake, sdk):
    made = sdk.create_challenge(initial_balance=100_000)
    fake.fail_next("SubmitTrade", "OUTCOME_UNKNOWN", times=100, after_commit=True)
    arguments = ["--target", fake.address, "--timeout", "0.3", "submit", made.challenge_id, "7"]
    failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 3
    (options,) = re.findall(r"to repeat it without doubling anything, add (.*)", failed.stderr)
    fake.fail_no_more()
    assert "replayed" in invoke(fake.address, "submit", made.challenge_id, "7", *options.split()).stdout
    assert sdk.get_challenge(made.challenge_id).equity == 100_007


def test_what_others_have_named_is_shown_as_it_is(run, sdk):
    made = sdk.create_challenge(initial_balance=1, labels={"desk": "[emea]", "x": "[/x]"})
    shown = run("get", made.challenge_id).stdout
    assert "desk=[emea], x=[/x]" in shown
    assert "desk=[emea], x=[/x]" in run("list").stdout


def test_watch_shows_open_challenges_with_course_and_limits(run, sdk):
    made = sdk.create_challenge(initial_balance=100_000, labels={"account": "anna"})
    trades = [Trade(f"t{n}", pnl, NOON + timedelta(minutes=n)) for n, pnl in enumerate((100, -2000, 900))]
    list(sdk.submit_trades(TradeSubmission(made.challenge_id, trade) for trade in trades))
    shown = run("watch", "--once").stdout
    assert "anna" in shown
    assert "▇█▁▄" in shown
    assert "1.00 of 5 %" in shown
    assert "1.10 of 10 %" in shown
    assert [found["equity"] for found in lines(run("watch", "--once", "--json"))] == ["99000"]
    assert "desk" not in run("watch", made.challenge_id, "--once").stdout


def test_a_sparkline_reaches_from_the_lowest_to_the_highest():
    assert sparkline([1, 2, 3, 8]) == "▁▂▃█"
    assert sparkline([5, 5]) == "▄▄"
    assert sparkline([]) == ""


def test_a_chart_is_drawn_from_the_recorded_decisions(run, fake, sdk, tmp_path):
    made = sdk.create_challenge(initial_balance=100_000)
    moments = (NOON, NOON + timedelta(hours=1), NOON + timedelta(days=1))
    trades = [Trade(f"t{n}", pnl, moments[n]) for n, pnl in enumerate((2000, -1000, -6000))]
    list(sdk.submit_trades(TradeSubmission(made.challenge_id, trade) for trade in trades))
    course = course_of(sdk.get_challenge(made.challenge_id), list(sdk.list_trades(made.challenge_id)))
    assert course.equity == [100_000, 102_000, 101_000, 95_000]
    assert course.peak == [100_000, 102_000, 102_000, 102_000]
    assert course.daily_floor == [95_000, 95_000, 95_000, 95_950]
    assert course.total_floor == [90_000, 91_800, 91_800, 91_800]
    assert (course.target, [number for number, _ in course.day_starts]) == (110_000, [1, 3])
    for name, begins in (("equity.png", b"\x89PNG"), ("equity.svg", b"<?xml")):
        run("chart", made.challenge_id, "-o", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(begins)
    pending = sdk.create_challenge(initial_balance=1)
    run("chart", pending.challenge_id, "-o", str(tmp_path / "empty.png"))
    refused = invoke(fake.address, "chart", made.challenge_id, "-o", "x.gif", code=2)
    assert "must end in .png, .svg, .pdf" in refused.stderr
    refused = invoke(fake.address, "chart", made.challenge_id, "-o", "/nonexistent/x.png", code=2)
    assert "cannot write /nonexistent/x.png" in refused.stderr


def test_the_shipped_trades_come_to_the_table_of_the_demo_and_twice_to_the_same(real_server_address, shipped):
    """On the real server: what was accepted is replayed, the rest is CHALLENGE_TERMINAL both times."""
    arguments = ("import", shipped, "--preset", "hyperliquid", "--series", "command line", "--json")
    ids = set()
    for new in (True, False):
        (report,) = lines(invoke(real_server_address, *arguments))
        assert report["rows"] == 1963
        for account in report["accounts"]:
            status, accepted, rows, equity = ACCOUNTS[account["account"]]
            challenge = account["challenge"]
            ids.add(challenge["challenge_id"])
            assert (challenge["status"], challenge["equity"], account["rows"]) == (status, equity, rows)
            assert (account["accepted"], account["replayed"]) == ((accepted, 0) if new else (0, accepted))
            assert account["after_the_end"] == rows - accepted
        assert {row["reason"] for row in report["refused"]} == {"CHALLENGE_TERMINAL"}
    assert len(ids) == 2
    with ChallengeClient(real_server_address) as client:
        assert sorted(client.get_challenge(ident).last_sequence for ident in ids) == [118, 288]


def test_a_dry_run_shows_the_same_and_sends_nothing(shipped):
    done = invoke("127.0.0.1:1", "import", shipped, "--preset", "hyperliquid", "--dry-run")
    for text in ("nothing was sent", "118 of 563 rows", "288 of 1400 rows", "110,128.83967839", "MAX_DAILY_DRAWDOWN"):
        assert text in done.stdout


BAD = """when,pnl,symbol
2026-03-02T12:00:00Z,100,ES
2026-03-02T12:01:00Z,abc,ES
2026-03-02T12:02:00Z,50,ES
2026-03-02T12:03:00Z,60,Ω
2026-03-02T12:04:00Z,70
2026-03-02T12:05:00Z,80,ES
"""
COLUMNS = ("--time", "when", "--pnl", "pnl", "--symbol", "symbol")


def test_bad_rows_are_named_by_line_and_the_rest_is_imported(fake, sdk, tmp_path):
    (tmp_path / "bad.csv").write_text(BAD, encoding="utf-8")
    report = tmp_path / "refused.csv"
    done = invoke(fake.address, "import", str(tmp_path / "bad.csv"), *COLUMNS, "--report", str(report), code=4)
    assert "3 rows were refused" in done.stdout
    for text in ("line 3: pnl must be a number", "line 5: symbol: must be at most 32", "line 6: has 2 cells"):
        assert text in done.stdout
    (challenge,) = sdk.list_challenges()
    assert (challenge.last_sequence, challenge.equity, challenge.labels) == (3, 100_230, {"account": "bad"})
    with report.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["reason"]) for row in rows] == [
        ("3", "BAD_ROW"), ("5", "VALIDATION_FAILED"), ("6", "BAD_ROW"),
    ]  # fmt: skip


def test_while_the_server_is_in_trouble_an_import_says_to_run_it_again(fake, sdk, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("when,pnl,symbol\n2026-03-02T12:00Z,1,ES\n2026-03-02T12:01Z,2,ES\n", encoding="utf-8")
    fake.fail_next("BatchSubmitTrades", "DATABASE_UNAVAILABLE", times=1000)
    arguments = ["--target", fake.address, "--timeout", "0.3", "import", str(path), *COLUMNS]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3
    assert "2 rows have no decision yet: run the same import again" in done.stdout
    fake.fail_no_more()
    assert "2, 0" in invoke(fake.address, "import", str(path), *COLUMNS).stdout
    assert (
        "cannot write"
        in invoke(fake.address, "import", str(path), *COLUMNS, "--report", "/nonexistent/r.csv", code=2).stderr
    )


def test_the_same_balance_is_the_same_challenge_however_it_is_written(fake, sdk, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("when,pnl,symbol\n2026-03-02T12:00Z,1,ES\n", encoding="utf-8")
    for balance in ("100000", "100000.00"):
        invoke(fake.address, "import", str(path), *COLUMNS, "--balance", balance)
    assert len(list(sdk.list_challenges())) == 1
    assert (
        "must be a plain decimal number"
        in invoke(fake.address, "import", str(path), *COLUMNS, "--balance", "100,000", code=2).stderr
    )


def test_an_import_that_broke_off_goes_on_where_it_was(fake, sdk, tmp_path):
    rows = [f"2026-03-02T12:{n:02}:00Z,{n},ES\n" for n in range(60)]
    path = tmp_path / "history.csv"
    path.write_text("when,pnl,symbol\n" + "".join(rows[:25]), encoding="utf-8")
    invoke(fake.address, "import", str(path), *COLUMNS)
    path.write_text("when,pnl,symbol\n" + "".join(rows), encoding="utf-8")
    (report,) = lines(invoke(fake.address, "import", str(path), *COLUMNS, "--json"))
    (account,) = report["accounts"]
    assert (account["accepted"], account["replayed"]) == (35, 25)
    assert len(list(sdk.list_challenges())) == 1


def test_into_a_challenge_that_exists_goes_one_account(fake, sdk, tmp_path, shipped):
    made = sdk.create_challenge(initial_balance=100_000)
    both = ("import", shipped, "--preset", "hyperliquid", "--challenge-id", made.challenge_id)
    assert "choose one with --only" in invoke(fake.address, *both, code=2).stderr
    assert "leave out --challenge-id" in invoke(fake.address, *both, "--dry-run", code=2).stderr
    invoke(fake.address, *both, "--only", next(iter(ACCOUNTS)))
    assert sdk.get_challenge(made.challenge_id).status == "FUNDED"


def test_the_program_is_installed_and_ends_quietly_when_its_reader_leaves(fake, sdk):
    for _ in range(50):
        sdk.create_challenge(initial_balance=1)
    command = [sys.executable, "-c", "from challenge_client.cli import main; main()", "--target", fake.address]
    with subprocess.Popen(
        [*command, "events", "--follow", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert json.loads(program.stdout.readline())["position"] == 1
        program.stdout.close()
        for _ in range(100):
            sdk.create_challenge(initial_balance=1)
        assert program.wait(30) == 1
        assert program.stderr.read() == ""


def test_without_the_extra_it_says_what_to_install():
    script = "import sys; sys.modules['typer'] = None; from challenge_client.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'challenge-client[cli]'" in done.stderr


async def test_watch_lives_through_an_absence_of_the_server(fake, sdk):
    made = sdk.create_challenge(initial_balance=1)
    async with fake.async_client(max_attempts=1) as client:
        screen = Watch(client, [made.challenge_id])
        assert [challenge.challenge_id for challenge in await screen.look()] == [made.challenge_id]
        fake.fail_next("GetChallenge", "DRAINING")
        assert await screen.look_again() == []
        console = Console(width=200, file=io.StringIO())
        console.print(screen.render())
        assert "no answer, as it was before" in console.file.getvalue()
        sdk.submit_trade(made.challenge_id, trade_id="1", realized_pnl=1, executed_at=NOON)
        assert [challenge.equity for challenge in await screen.look_again()] == [2]
        fake.fail_next("GetChallenge", "CHALLENGE_NOT_FOUND")
        with pytest.raises(ChallengeNotFoundError):
            await screen.look_again()


async def test_no_more_are_watched_than_there_is_room_for_and_those_stay(fake, sdk, monkeypatch):
    monkeypatch.setattr(watching, "MAX_WATCHED", 2)
    ids = [sdk.create_challenge(initial_balance=1).challenge_id for _ in range(3)]
    async with fake.async_client() as client:
        screen = Watch(client, [])
        assert {challenge.challenge_id for challenge in await screen.look()} == set(ids[1:])
        sdk.create_challenge(initial_balance=1)
        sdk.submit_trade(ids[1], trade_id="1", realized_pnl=-1, executed_at=NOON)
        assert [challenge.status for challenge in await screen.look()] == ["FAILED"]
        with pytest.raises(UsageError, match="at most 2 challenges"):
            Watch(client, ids)
