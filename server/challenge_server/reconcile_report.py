"""What a reconciliation found: lines and a table of totals for people, JSON for programs."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from challenge_engine.reconciling import Finding, FindingKind, Match, Reconciled, Total
from challenge_rules.money import format_amount
from challenge_rules.timestamps import to_iso
from challenge_server.statement_cells import shown
from challenge_server.statement_file import Fault, Statement

MAX_SHOWN_FINDINGS = 50
MAX_SHOWN_ROWS = 20
MAX_SHOWN_CHALLENGES = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a statement; `name` is that of its file."""

    name: str
    match: Match
    statement: Statement
    challenges: Sequence[Reconciled]

    @property
    def findings(self) -> Iterator[Finding]:
        """Those of all challenges."""
        return (finding for challenge in self.challenges for finding in challenge.findings)

    @property
    def counts(self) -> dict[FindingKind, int]:
        """How many findings there are of each kind."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in FindingKind}

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong. A row that cannot be read is: who knows what it says."""
        return not self.statement.bad_rows and not any(challenge.findings for challenge in self.challenges)

    @property
    def listed(self) -> Total:
        """Of the statement, as far as it can be read."""
        return sum((challenge.listed for challenge in self.challenges), Total())

    @property
    def recorded(self) -> Total:
        """Of what it was compared with."""
        return sum((challenge.recorded for challenge in self.challenges), Total())


def report_as_json(report: Report) -> str:
    """The whole report as one line of JSON: every finding, and what is wrong with the first bad rows.

    Amounts are text in the form of the contract, moments ISO 8601, `difference` the statement minus our records.
    """
    return json.dumps(
        {
            "agrees": report.agrees,
            "statement": report.name,
            "match": report.match,
            "rows": report.statement.rows,
            "bad_rows": report.statement.bad_rows,
            "faults": [
                {"line": fault.line, "column": fault.column, "message": fault.message}
                for fault in report.statement.faults
            ],
            "counts": report.counts,
            "findings": [_finding_as_json(finding) for finding in report.findings],
            "challenges": [
                {"challenge_id": each.challenge_id, **_totals_as_json(each.listed, each.recorded)}
                for each in report.challenges
            ],
            "totals": _totals_as_json(report.listed, report.recorded),
        }
    )


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "challenge_id": finding.challenge_id,
        "trade_id": finding.trade_id or None,
        "line": finding.line,
        "first_line": finding.first_line,
        "sequence": finding.sequence,
        "executed_at": None if finding.executed_at is None else to_iso(finding.executed_at),
        "realized_pnl": None if finding.realized_pnl is None else format_amount(finding.realized_pnl),
        "differences": [
            {"field": each.field, "statement": each.listed, "recorded": each.recorded} for each in finding.differences
        ],
    }


def _totals_as_json(listed: Total, recorded: Total) -> dict[str, dict[str, Any]]:
    return {
        name: {"trades": total.count, "realized_pnl": format_amount(total.realized_pnl)}
        for name, total in (("statement", listed), ("recorded", recorded), ("difference", listed - recorded))
    }


def print_report(console: Console, report: Report) -> None:
    """The report in lines, each list of it bounded; what it leaves out, it counts.

    Every cell of the statement is escaped, and printed as it is: brackets in it are no markup.
    """
    rows, challenges = _counted(report.statement.rows, "row"), _counted(len(report.challenges), "challenge")
    _say(console, f"{report.name}: {rows} of {challenges}, matched by {report.match}")
    if report.statement.bad_rows:
        bad = _counted(report.statement.bad_rows, "row")
        _say(console, f"{bad} cannot be read, and may list what shows as extra; the others were compared", "bold red")
        print_faults(console, report.statement)
    findings = list(report.findings)
    if findings:
        kinds = ", ".join(f"{count:,} {_words(kind)}" for kind, count in report.counts.items() if count)
        _say(console, f"{_counted(len(findings), 'finding')}: {kinds}", "bold red")
        for finding in findings[:MAX_SHOWN_FINDINGS]:
            _say(console, f"  {_where(finding)}: {_told(finding)}")
        _say_more(console, len(findings) - MAX_SHOWN_FINDINGS, "finding", "; --json has them all")
    _print_totals(console, report)
    if report.agrees:
        _say(console, "the statement and the records agree", "bold green")
    else:
        _say(console, "the statement and the records differ", "bold red")


def print_faults(console: Console, statement: Statement) -> None:
    """What is wrong with the first bad rows, and how many more there are."""
    lines = list(dict.fromkeys(fault.line for fault in statement.faults))[:MAX_SHOWN_ROWS]
    for fault in statement.faults:
        if fault.line <= lines[-1]:
            _say(console, f"  {_fault(fault)}")
    _say_more(console, statement.bad_rows - len(lines), "row")


def _fault(fault: Fault) -> str:
    column = "" if fault.column is None else f", column {shown(fault.column)}"
    return f"line {fault.line}{column}: {fault.message}"


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)


def _say_more(console: Console, count: int, what: str, hint: str = "") -> None:
    if count > 0:
        _say(console, f"  … and {_counted(count, f'more {what}')}{hint}", "dim")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _words(kind: FindingKind) -> str:
    return kind.replace("_", " ")


def _where(finding: Finding) -> str:
    """The row, the trade of ours, and its challenge, as far as there are any."""
    line = "" if finding.line is None else f"line {finding.line}, "
    trade = f" trade {shown(finding.trade_id)}" if finding.trade_id else ""
    sequence = "" if finding.sequence is None else f" (our number {finding.sequence})"
    return f"{line}{finding.challenge_id}{trade}{sequence}"


def _told(finding: Finding) -> str:
    amount = "" if finding.realized_pnl is None else format_amount(finding.realized_pnl)
    moment = "" if finding.executed_at is None else to_iso(finding.executed_at)
    told = {
        FindingKind.MISSING: f"missing, {amount} at {moment} is not recorded",
        FindingKind.EXTRA: f"extra, {amount} at {moment} is recorded and not in the statement",
        FindingKind.DIFFERENT: f"different, {_differences(finding)}",
        FindingKind.OUT_OF_ORDER: "out of order, it was decided at another place than the statement lists it at",
        FindingKind.DUPLICATE: f"duplicate, {amount} at {moment} is on line {finding.first_line} already",
        FindingKind.UNKNOWN_CHALLENGE: "unknown challenge, none of its trades was compared",
    }
    return told[finding.kind]


def _differences(finding: Finding) -> str:
    return "; ".join(
        f"{each.field} is {shown(each.listed)} in the statement and {shown(each.recorded)} in the records"
        for each in finding.differences
    )


def _print_totals(console: Console, report: Report) -> None:
    """Those of the challenges with findings first, then those of all."""
    ordered = sorted(report.challenges, key=lambda challenge: not challenge.findings)
    table = [
        ("", "trades listed", "recorded", "difference", "P&L listed", "recorded", "difference"),
        *(
            (challenge.challenge_id, *_figures(challenge.listed, challenge.recorded))
            for challenge in ordered[:MAX_SHOWN_CHALLENGES]
        ),
        ("all", *_figures(report.listed, report.recorded)),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, (name, *figures) in enumerate(table):
        if number == len(table) - 1:
            _say_more(console, len(ordered) - MAX_SHOWN_CHALLENGES, "challenge")
        cells = [name.ljust(widths[0]), *_right(figures, widths[1:])]
        _say(console, "  ".join(cells), "dim" if number == 0 else "")


def _figures(listed: Total, recorded: Total) -> tuple[str, ...]:
    totals = (listed, recorded, listed - recorded)
    return (
        *(f"{total.count:,}" for total in totals),
        *(format_amount(total.realized_pnl) for total in totals),
    )


def _right(figures: Iterable[str], widths: Iterable[int]) -> Iterator[str]:
    return (figure.rjust(width) for figure, width in zip(figures, widths, strict=True))
