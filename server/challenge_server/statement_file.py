"""Reads the statement of somebody else, a CSV file with a header, as trades by challenge.

A row that is no trade is named with its line, its column and what is allowed, and left out; the others are read all the
same. Amounts, moments and challenge_ids may have spaces around them; trade_ids and symbols are taken as they stand.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from challenge_engine.reconciling import Listed, Match
from challenge_server.statement_cells import ReadMoment, read_amount, read_challenge_id, read_trade_id, shown

FIELDS = ("challenge_id", "trade_id", "executed_at", "realized_pnl", "symbol")
"""What a row tells, by our names."""
MAX_BAD_ROWS = 100
"""Of so many rows is kept what is wrong with them; the others are counted."""
ROWS_A_STEP = 2_000
"""Progress is told so often."""


class StatementError(Exception):
    """The file as a whole cannot be read as a statement; the message says why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a statement is written.

    `columns` are their names of our fields, where they are not the same. With `challenge_id` all rows are of this
    challenge, and none has a column for it.
    """

    read_moment: ReadMoment
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    challenge_id: str | None = None
    match: Match = Match.TRADE_ID

    @property
    def needed(self) -> frozenset[str]:
        """The fields without which there is nothing to compare."""
        needed = {"executed_at", "realized_pnl"}
        if self.challenge_id is None:
            needed.add("challenge_id")
        if self.match is Match.TRADE_ID:
            needed.add("trade_id")
        return frozenset(needed)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a cell, or with a whole row when `column` is None. Columns have the names of the file."""

    line: int
    column: str | None
    message: str


@dataclass(slots=True)
class Statement:
    """The trades of a file by challenge, in the order of the file; `faults` are those of the first bad rows."""

    has_symbols: bool
    trades: dict[str, list[Listed]] = field(default_factory=dict)
    rows: int = 0
    bad_rows: int = 0
    faults: list[Fault] = field(default_factory=list)

    def refuse(self, faults: Sequence[Fault]) -> None:
        """Count a bad row, and keep what is wrong with it while there are few."""
        if self.bad_rows < MAX_BAD_ROWS:
            self.faults += faults
        self.bad_rows += 1


def _ignored(_cell: str) -> str:
    return ""


class _Rows:
    """Makes trades of rows, by the places that the header gives to our fields."""

    def __init__(self, name: str, header: Sequence[str], layout: Layout) -> None:
        self.header = header
        symbols: dict[str, str] = {}
        readers: dict[str, Callable[[str], Any]] = {
            "challenge_id": read_challenge_id,
            "trade_id": read_trade_id if layout.match is Match.TRADE_ID else str,
            "executed_at": layout.read_moment,
            "realized_pnl": read_amount,
            # One text for all rows with the same symbol.
            "symbol": lambda cell: symbols.setdefault(cell, cell),
        }
        if layout.challenge_id is not None:
            if layout.columns.get("challenge_id", "challenge_id") in header:
                raise StatementError(f"{name} has a column of challenge_ids: leave --challenge out")
            only = layout.challenge_id
            readers["challenge_id"] = lambda _cell: only
        absent = []
        self._cells: list[tuple[int, Callable[[str], Any]]] = []
        for ours in FIELDS:
            theirs = layout.columns.get(ours, ours)
            count = header.count(theirs)
            if count > 1:
                raise StatementError(f"{name} has {count} columns {shown(theirs)}")
            if count:
                self._cells.append((header.index(theirs), readers[ours]))
                continue
            if ours in layout.needed or ours in layout.columns:
                absent.append(theirs)
            self._cells.append((0, readers[ours] if ours == "challenge_id" else _ignored))
        if absent:
            missing, found = (", ".join(map(shown, names)) for names in (absent, header))
            raise StatementError(
                f"{name} has no column {missing}; its columns are {found}."
                " Name a column with --column OURS=THEIRS, and another delimiter with --delimiter"
            )
        self.has_symbols = layout.columns.get("symbol", "symbol") in header

    def read(self, line: int, cells: Sequence[str]) -> tuple[str, Listed]:
        """The challenge and the trade of a row; `ValueError` for one that is none."""
        if len(cells) != len(self.header):
            raise ValueError(f"must have {len(self.header)} cells, as the header has; got {len(cells)}")
        challenge_id, trade_id, executed_at, realized_pnl, symbol = [read(cells[place]) for place, read in self._cells]
        return challenge_id, Listed(line, trade_id, executed_at, realized_pnl, symbol)

    def faults(self, line: int, cells: Sequence[str], error: ValueError) -> list[Fault]:
        """Everything that is wrong with a row that could not be read, which raised `error`."""
        if len(cells) != len(self.header):
            return [Fault(line, None, str(error))]
        found = []
        for place, read in self._cells:
            try:
                read(cells[place])
            except ValueError as wrong:
                found.append(Fault(line, self.header[place], str(wrong)))
        return found


Progress = Callable[[int, int], object]
"""Is told how much is done, and of how much."""


def read_statement(path: Path, layout: Layout, progress: Progress = lambda _done, _all: None) -> Statement:
    """Read a statement. Raises `StatementError`; `progress` is told of the bytes that have been read."""
    with _open(path, layout.delimiter) as (raw, rows):
        header = next(rows, None)
        if header is None:
            raise StatementError(f"{path.name} is empty: it must begin with a header of column names")
        trades = _Rows(path.name, [cell.strip() for cell in header[1]], layout)
        statement = Statement(trades.has_symbols)
        if layout.challenge_id is not None:
            statement.trades[layout.challenge_id] = []
        for line, cells in rows:
            statement.rows += 1
            if statement.rows % ROWS_A_STEP == 0 and raw.seekable():
                progress(raw.tell(), os.fstat(raw.fileno()).st_size)
            try:
                challenge_id, trade = trades.read(line, cells)
            except ValueError as error:
                statement.refuse(trades.faults(line, cells, error))
            else:
                statement.trades.setdefault(challenge_id, []).append(trade)
    if not statement.rows and layout.challenge_id is None:
        raise StatementError(f"{path.name} has no rows below its header, so there is nothing to compare")
    return statement


@contextmanager
def _open(path: Path, delimiter: str) -> Iterator[tuple[io.BufferedReader, Iterator[tuple[int, list[str]]]]]:
    """A file, and its rows that are not empty, each with the line on which it begins."""
    line = 1

    def rows(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
        nonlocal line
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1

    try:
        with path.open("rb") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            yield raw, rows(text)
    except OSError as error:
        raise StatementError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StatementError(
            f"{path.name} is not UTF-8, from line {line} on or a little later; save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise StatementError(f"{path.name} is not well-formed CSV from line {line} on: {error}") from None
