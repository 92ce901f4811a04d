"""`challenge-engine reconcile` as an operator and as a program meet it: its answers, exit codes and refusals."""

import csv
import io
import json
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from challenge_rules import Decision, Limits, Trade, TradeSubmission
from challenge_rules.limits import parse_percentage
from challenge_rules.money import format_amount, parse_amount
from challenge_rules.timestamps import from_datetime, to_iso
from challenge_server.cli import app
from challenge_server.fills import read_fills
from challenge_server.reconcile_report import MAX_SHOWN_CHALLENGES, MAX_SHOWN_FINDINGS, MAX_SHOWN_ROWS
from tests.engine.harness import NOON, SECOND, RunningEngine, new_id, running_engine, submission
from tests.server.calls import command, url_text

AGREES, NOT_DONE, USAGE, DIFFERS = 0, 1, 2, 4
HEADER = ("challenge_id", "trade_id", "executed_at", "realized_pnl", "symbol")
WIDE_LIMITS = Limits(parse_percentage("99.9999"), parse_percentage("99.9999"), parse_percentage("10000"))
Row = tuple[str, str, str, str, str]


class Reconciling:
    """The command on one database, and a statement file to write for it."""

    def __init__(self, url: URL, folder: Path) -> None:
        self.url = url
        self.path = folder / "statement.csv"

    def write(self, rows: Iterable[Iterable[str]], header: Iterable[str] = HEADER) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([header, *rows])
        self.path.write_text(text.getvalue(), encoding="utf-8")

    def run(self, *options: str) -> tuple[int, str]:
        """Its exit code, and what it says on both outputs."""
        arguments = ["reconcile", "--csv", str(self.path), "--database-url", url_text(self.url), *options]
        ended = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return ended.exit_code, ended.output

    def report(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Its exit code, and the report for programs."""
        code, text = self.run("--json", *options)
        assert text.count("\n") == 1, text
        report: dict[str, Any] = json.loads(text)
        assert report["agrees"] is (code == AGREES)
        return code, report


@pytest.fixture
def reconciling(database_url: URL, tmp_path: Path) -> Reconciling:
    return Reconciling(database_url, tmp_path)


async def trade(engine: RunningEngine, count: int = 5, **terms: Any) -> tuple[str, list[Row]]:
    """A challenge with trades t0, t1, … a second apart, and a statement's rows of it."""
    challenge_id = await engine.create(limits=WIDE_LIMITS, **terms)
    submissions = [
        submission(challenge_id, f"t{number}", format_amount(number * 10**7 - 1), number, symbol="EURUSD")
        for number in range(count)
    ]
    await engine.batch(*submissions)
    return challenge_id, [
        (
            challenge_id,
            each.trade.trade_id,
            to_iso(each.trade.executed_at),
            format_amount(each.trade.realized_pnl),
            "EURUSD",
        )
        for each in submissions
    ]


async def test_a_statement_that_says_the_same_in_other_words_agrees(reconciling: Reconciling):
    async with running_engine(reconciling.url) as engine:
        first, rows = await trade(engine)
        _, others = await trade(engine, 3)
        reconciling.write(
            [
                (*row[:2], row[2].replace("Z", "+00:00"), row[3] + "000" if "." in row[3] else "+" + row[3], row[4])
                for row in rows
            ]
            + others
        )
        code, text = reconciling.run()
        assert code == AGREES
        assert "statement.csv: 8 rows of 2 challenges, matched by trade_id" in text
        assert "the statement and the records agree" in text
        code, report = reconciling.report()
    assert code == AGREES
    assert report["findings"] == report["faults"] == []
    assert report["challenges"][0] == {
        "challenge_id": first,
        "statement": {"trades": 5, "realized_pnl": "0.99999995"},
        "recorded": {"trades": 5, "realized_pnl": "0.99999995"},
        "difference": {"trades": 0, "realized_pnl": "0"},
    }
    assert report["totals"]["recorded"] == {"trades": 8, "realized_pnl": "1.29999992"}


async def test_one_fault_of_each_kind_is_one_finding_of_its_kind(reconciling: Reconciling):
    """While the service runs; in the order of the lines."""
    unknown = new_id()
    async with running_engine(reconciling.url) as engine:
        ours, rows = await trade(engine, 9)
        other, others = await trade(engine, 2)
        moved = rows.pop(2)
        rows.insert(6, moved)
        rows[0] = (*rows[0][:2], "2025-01-02T12:00:00.5Z", "7", "GOLD")
        del rows[8]
        rows.append((ours, "t100", "2025-01-03T00:00:00Z", "-3.5", "[red]=cmd"))
        rows.append(rows[1])
        rows.append((unknown, "x", "2025-01-03T00:00:00Z", "1", ""))
        reconciling.write([*rows, *others, (other, "bad", "2025-01-03", "1,5", "")])
        code, report = reconciling.report()
        text_code, text = reconciling.run()
    assert code == text_code == DIFFERS
    kinds = ["different", "out_of_order", "missing", "duplicate", "unknown_challenge", "extra"]
    assert report["counts"] == dict.fromkeys(kinds, 1)
    by_kind = {finding["kind"]: finding for finding in report["findings"]}
    assert [(kind, by_kind[kind]["line"], by_kind[kind]["sequence"]) for kind in kinds] == [
        ("different", 2, 1), ("out_of_order", 8, 3), ("missing", 10, None), ("duplicate", 11, None),
        ("unknown_challenge", 12, None), ("extra", None, 9),
    ]  # fmt: skip
    assert by_kind["different"]["differences"] == [
        {"field": "executed_at", "statement": "2025-01-02T12:00:00.500000Z", "recorded": "2025-01-02T12:00:00.000000Z"},
        {"field": "realized_pnl", "statement": "7", "recorded": "-0.00000001"},
        {"field": "symbol", "statement": "GOLD", "recorded": "EURUSD"},
    ]
    assert by_kind["missing"] == {
        "kind": "missing", "challenge_id": ours, "trade_id": "t100", "line": 10, "first_line": None, "sequence": None,
        "executed_at": "2025-01-03T00:00:00.000000Z", "realized_pnl": "-3.5", "differences": [],
    }  # fmt: skip
    assert by_kind["duplicate"]["first_line"] == 3
    assert by_kind["unknown_challenge"]["challenge_id"] == unknown
    assert (report["rows"], report["bad_rows"]) == (14, 1)
    assert [(fault["line"], fault["column"]) for fault in report["faults"]] == [
        (15, "executed_at"),
        (15, "realized_pnl"),
    ]
    assert report["totals"]["difference"] == {"trades": 2, "realized_pnl": "3.80000001"}
    for said in (
        "1 row cannot be read, and may list what shows as extra; the others were compared",
        "line 15, column 'realized_pnl': must be an amount such as 1234.5",
        "6 findings: 1 missing, 1 extra, 1 different, 1 out of order, 1 duplicate, 1 unknown challenge",
        f"line 10, {ours} trade 't100': missing, -3.5 at 2025-01-03T00:00:00.000000Z is not recorded",
        "realized_pnl is '7' in the statement and '-0.00000001' in the records",
        "is on line 3 already",
        "the statement and the records differ",
    ):
        assert said in text


async def test_the_real_trades_of_two_accounts_agree_to_the_last_digit_as_far_as_their_challenges_went(
    reconciling: Reconciling,
):
    """What came after the end was refused, so that it is in the statement and not recorded."""
    async with running_engine(reconciling.url) as engine:
        rows = []
        refused = []
        for account, fills in sorted(read_fills().items()):
            challenge_id = await engine.create("100000" if not rows else "100000000", labels=(("account", account),))
            trades = [
                Trade(
                    fill.trade_id,
                    parse_amount(f"{fill.realized_pnl.normalize():f}"),
                    from_datetime(fill.executed_at),
                    fill.symbol,
                )
                for fill in fills
            ]
            answers = []
            for first in range(0, len(trades), 200):
                answers += await engine.batch(
                    *(TradeSubmission(challenge_id, each) for each in trades[first : first + 200])
                )
            refused += [
                (challenge_id, each.trade_id) for each, answer in zip(trades, answers, strict=True)
                if not isinstance(answer, Decision)
            ]  # fmt: skip
            rows += [
                (challenge_id, each.trade_id, str(each.executed_at), format_amount(each.realized_pnl), each.symbol)
                for each in trades
            ]
        reconciling.write(rows)
        code, report = reconciling.report("--time-format", "epoch_us")
        kept = set(refused)
        reconciling.write(row for row in rows if row[:2] not in kept)
        assert reconciling.report("--time-format", "epoch_us")[0] == AGREES
    assert 0 < len(refused) < len(rows)
    assert code == DIFFERS
    assert [(each["kind"], each["challenge_id"], each["trade_id"]) for each in report["findings"]] == [
        ("missing", *each) for each in refused
    ]
    assert report["totals"]["difference"]["trades"] == len(refused)


async def test_a_brokers_own_form_is_read_as_it_is_told(reconciling: Reconciling):
    """One account, newest first, semicolons, its own names, local times to the second, no symbols."""
    async with running_engine(reconciling.url) as engine:
        challenge_id = await engine.create()
        await engine.batch(*(submission(challenge_id, f"{n}", f"{n}.5", n + 0.25, symbol="GOLD") for n in (1, 2, 3)))
        reconciling.path.write_text(
            "Ticket;Close;Profit;Comment\n"
            "3;02.01.2025 13:00:03;3.50;\n2;02.01.2025 13:00:02;2.50;\n1;02.01.2025 13:00:01;1.50;\n"
        )
        options = (
            "--challenge", challenge_id.upper(), "--delimiter", ";", "--column", "trade_id=Ticket",
            "--column", "executed_at=Close", "--column", "realized_pnl=Profit", "--time-format", "%d.%m.%Y %H:%M:%S",
            "--time-zone", "Europe/Berlin",
        )  # fmt: skip
        assert reconciling.run(*options, "--time-precision", "s", "--newest-first")[0] == AGREES
        assert reconciling.report(*options, "--newest-first")[1]["counts"]["different"] == 3
        assert reconciling.report(*options, "--time-precision", "s")[1]["counts"]["out_of_order"] == 2


async def test_a_statement_without_our_ids_is_matched_by_time(reconciling: Reconciling):
    async with running_engine(reconciling.url) as engine:
        challenge_id, rows = await trade(engine)
        reconciling.write([(row[0], row[2], row[3]) for row in rows], ("challenge_id", "executed_at", "realized_pnl"))
        assert reconciling.run("--match", "time")[0] == AGREES
        assert reconciling.run()[0] == USAGE
        reconciling.write([(challenge_id, rows[1][2], "5")], ("challenge_id", "executed_at", "realized_pnl"))
        _, report = reconciling.report("--match", "time")
    assert report["counts"]["extra"] == 4
    assert report["findings"][0]["trade_id"] == "t1"


async def test_what_is_outside_of_the_statements_time_is_not_extra(reconciling: Reconciling):
    async with running_engine(reconciling.url) as engine:
        _, rows = await trade(engine)
        reconciling.write(rows[1:3])
        assert reconciling.report()[1]["counts"]["extra"] == 3
        assert reconciling.run("--from", to_iso(NOON + SECOND), "--to", "2025-01-02T12:00:03")[0] == AGREES
        assert reconciling.run("--from", "2025-01-02", "--to", "2025-01-03")[0] == DIFFERS


async def test_an_empty_statement_of_one_account_leaves_all_its_trades_extra(reconciling: Reconciling):
    async with running_engine(reconciling.url) as engine:
        challenge_id, _ = await trade(engine, 3)
    reconciling.write([], HEADER[1:])
    code, report = reconciling.report("--challenge", challenge_id)
    assert (code, report["counts"]["extra"]) == (DIFFERS, 3)
    _, report = reconciling.report("--challenge", new_id())
    assert report["counts"]["unknown_challenge"] == 1


async def test_long_reports_are_cut_for_people_and_not_for_programs(reconciling: Reconciling):
    async with running_engine(reconciling.url) as engine:
        challenge_id, rows = await trade(engine, 2)
    unknown = [(new_id(), "x", "2025-01-02T12:00:00Z", "1", "") for _ in range(MAX_SHOWN_CHALLENGES + 4)]
    lost = [(challenge_id, f"lost{n}", "2025-01-02T12:00:00Z", "1", "") for n in range(MAX_SHOWN_FINDINGS)]
    reconciling.write([*rows, *lost, *unknown, *([("bad",) * 5] * (MAX_SHOWN_ROWS + 3))])
    _, text = reconciling.run()
    assert text.count(": missing, ") == MAX_SHOWN_FINDINGS
    assert f"… and {MAX_SHOWN_CHALLENGES + 4} more findings; --json has them all" in text
    assert "… and 3 more rows" in text
    assert "… and 5 more challenges" in text
    _, report = reconciling.report()
    assert len(report["findings"]) == MAX_SHOWN_FINDINGS + MAX_SHOWN_CHALLENGES + 4
    assert len(report["challenges"]) == MAX_SHOWN_CHALLENGES + 5


async def test_a_cell_is_printed_as_it_is_and_nothing_in_it_is_obeyed(reconciling: Reconciling):
    async with running_engine(reconciling.url) as engine:
        challenge_id, _ = await trade(engine, 0)
    reconciling.write([(challenge_id, "[bold]=HYPERLINK()\x1b[2J", "2025-01-02T12:00:00Z", "1", "")])
    _, text = reconciling.run()
    assert r"trade '[bold]=HYPERLINK()\x1b[2J': missing" in text
    assert "\x1b" not in text


def test_a_file_of_which_no_row_can_be_read_is_not_compared(reconciling: Reconciling):
    reconciling.write([(new_id(), "t", "yesterday", "1", "")] * 25)
    code, text = reconciling.run("--json")
    assert code == USAGE
    assert "none of the 25 rows of statement.csv can be read" in text
    assert "line 2, column 'executed_at': must be a time in ISO 8601" in text
    assert "… and 5 more rows" in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--csv", "nowhere.csv"), "cannot read nowhere.csv"),
        (("--column", "profit=Profit"), "must be OURS=THEIRS"),
        (("--column", "trade_id"), "must be OURS=THEIRS"),
        (("--column", "trade_id="), "must be OURS=THEIRS"),
        (("--column", "trade_id=a", "--column", "trade_id=b"), "names trade_id twice"),
        (("--column", "trade_id=Ticket"), "no column 'Ticket'"),
        (("--challenge", "7"), "must be a UUID"),
        (("--challenge", "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"), "leave --challenge out"),
        (("--challenge", "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f", "--column", "challenge_id=x"), "without a column"),
        (("--match", "symbol"), "--match"),
        (("--match", "time", "--time-precision", "s"), "--time-precision"),
        (("--time-format", "%Q"), "pattern that strptime takes"),
        (("--time-zone", "Mars"), "must be a time zone"),
        (("--from", "monday"), "must be a time in ISO 8601"),
        (("--from", "2025-01-02", "--to", "2025-01-02"), "must lie after --from"),
        (("--delimiter", "::"), "must be one character"),
        (("--delimiter", '"'), "must be one character"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_compared(tmp_path: Path, options: tuple[str, ...], complaint: str):
    path = tmp_path / "statement.csv"
    path.write_text(",".join(HEADER) + "\n1,2,3,4,5\n")
    away = ("--database-url", "postgresql://nobody@127.0.0.1:1/x")
    given = options if "--csv" in options else ("--csv", str(path), *options)
    ended = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["reconcile", *given, *away])
    assert ended.exit_code == USAGE
    assert complaint in ended.output


def test_a_statement_has_to_be_named():
    ended = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["reconcile"])
    assert ended.exit_code == USAGE
    assert "--csv" in ended.output


def test_a_database_that_is_away_or_without_the_schema_is_told_apart_from_a_difference(reconciling: Reconciling):
    reconciling.write([(new_id(), "t", "2025-01-02T12:00:00Z", "1", "")])
    code, text = reconciling.run("--database-url", "postgresql://nobody@127.0.0.1:1/x")
    assert code == NOT_DONE
    assert "challenge-engine: error: the database cannot be used" in text
    bare = Reconciling(reconciling.url.set(database="postgres"), reconciling.path.parent)
    code, text = bare.run()
    assert code == NOT_DONE
    assert "revision none" in text


async def test_as_a_process_it_answers_by_exit_code_and_draws_no_progress_where_nobody_watches(
    reconciling: Reconciling,
):
    async with running_engine(reconciling.url) as engine:
        _, rows = await trade(engine)
    reconciling.write(rows)
    options = ("reconcile", "--csv", str(reconciling.path), "--database-url", url_text(reconciling.url), "--json")
    ended = command(*options)
    assert (ended.returncode, ended.stderr) == (AGREES, "")
    assert json.loads(ended.stdout)["agrees"]
    reconciling.write(rows[1:])
    ended = command(*options)
    assert (ended.returncode, ended.stderr) == (DIFFERS, "")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
async def test_a_statement_may_come_out_of_a_pipe(reconciling: Reconciling, monkeypatch: pytest.MonkeyPatch):
    async with running_engine(reconciling.url) as engine:
        _, rows = await trade(engine)
    monkeypatch.setattr("challenge_server.statement_file.ROWS_A_STEP", 1)
    reconciling.write(rows)
    text = reconciling.path.read_text()
    reconciling.path.unlink()
    os.mkfifo(reconciling.path)
    writer = threading.Thread(target=reconciling.path.write_text, args=(text,))
    writer.start()
    assert reconciling.run()[0] == AGREES
    writer.join()


def test_the_help_tells_the_exit_codes():
    ended = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["reconcile", "--help"])
    assert "Exit codes: 0 the statement and the records agree" in ended.output
