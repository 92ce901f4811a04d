"""What event streams promise, how each promise could be broken, and the test that notices: `make promises`.

Every break is made in a copy of the project, one at a time, and the test named for it has to fail there. A test that
passes on a broken service proves nothing.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("engine", "server", "client", "bench", "tests", "docs", "protos", "pyproject.toml", "README.md")
TIMEOUT_S = 120


@dataclass(frozen=True)
class Break:
    """One promise, one way to break it, and the test that has to fail then."""

    promise: str
    how: str
    file: str
    old: str
    new: str
    test: str


TAIL = "engine/challenge_engine/event_tail.py"
LOG = "engine/challenge_engine/event_log.py"
QUERIES = "engine/challenge_engine/queries.py"
SDK = "client/challenge_client/resumption.py"
TEST_TAIL = "tests/engine/test_event_tail.py::TestFollowing::"
TEST_SHARED = "tests/engine/test_event_tail.py::TestOneReaderForAll::"
TEST_LOG = "tests/engine/test_event_log.py"
TEST_POSITIONS = "tests/engine/test_positions.py::"

BREAKS = (
    Break(
        "ordered, per challenge",
        "positions are given in the reverse order",
        QUERIES,
        "OVER (ORDER BY w.outbox_id)",
        "OVER (ORDER BY w.outbox_id DESC)",
        TEST_POSITIONS + "test_events_of_a_process_that_died_are_given_positions_by_another",
    ),
    Break(
        "ordered, by gapless global position",
        "the number drawn by the writer serves as the position",
        QUERIES,
        "SELECT (SELECT coalesce(max(position), 0) FROM event_positions) + row_number() OVER (ORDER BY w.outbox_id)",
        "SELECT w.outbox_id",
        TEST_POSITIONS + "test_assigning_at_the_same_time_places_each_event_once",
    ),
    Break(
        "unique",
        "a page begins with the event before",
        QUERIES,
        "WHERE position > %(after)s AND position <= %(last)s",
        "WHERE position >= %(after)s AND position <= %(last)s",
        TEST_TAIL + "test_it_is_resumable_at_every_position_and_exclusive",
    ),
    Break(
        "unique, in the SDK",
        "what comes again is given again",
        SDK,
        "event.position > reached",
        "event.position >= reached",
        "tests/client/test_resumption.py",
    ),
    Break(
        "complete",
        "who takes a part of what is kept stands at its end",
        TAIL,
        "return Page(wanted, end if reached_end else seen[-1].place, reached_end, end.position)",
        "return Page(wanted, end, True, end.position)",
        TEST_SHARED + "test_a_follower_holds_few_events_however_many_are_kept",
    ),
    Break(
        "complete, from the table",
        "a full page counts as the last one",
        LOG,
        "return Page(events, place, place.position >= end.place.position,",
        "return Page(events, place, True,",
        TEST_LOG,
    ),
    Break(
        "atomic",
        "events are committed before the trades that caused them",
        QUERIES,
        'WRITE_EVENTS_AND = f"EXECUTE insert_events(%s); {WRITE}"',
        'WRITE_EVENTS_AND = f"EXECUTE insert_events(%s); COMMIT; BEGIN; {WRITE}"',
        "tests/engine/test_trading.py",
    ),
    Break(
        "resumable",
        "a message with several events carries the cursor of its first",
        "server/challenge_server/event_encoding.py",
        "_cursor(cursors, some[-1].place) + told",
        "_cursor(cursors, some[0].place) + told",
        "tests/server/test_stream.py",
    ),
    Break(
        "resumable, never on another history",
        "a cursor is not compared with the event at its place",
        LOG,
        "if marks and marks != [place.mark]:",
        "if False:",
        TEST_LOG + "::TestCursors::test_a_cursor_at_whose_place_a_restored_log_has_another_event_is_refused",
    ),
    Break(
        "another log has another id: dump, copy",
        "a log that finds itself elsewhere keeps its id",
        QUERIES,
        "CASE WHEN origin IS NULL THEN log_id ELSE gen_random_uuid() END",
        "log_id",
        TEST_LOG,
    ),
    Break(
        "another log has another id: restore, failover",
        "the timeline is no part of where a log lives",
        QUERIES,
        "    || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)\n",
        "",
        TEST_LOG + "::TestCursors::test_a_cluster_that_begins_a_new_timeline_has_another_log",
    ),
    Break(
        "bookmarkable",
        "a heartbeat carries the end of the log, wherever the reader stands",
        TAIL,
        "while not await turn.has_come(self._silence_left_s()):\n                yield Heartbeat(self._place)",
        "while not await turn.has_come(self._silence_left_s()):\n"
        "                yield Heartbeat((await self._tail._log.end()).place)",
        TEST_SHARED + "test_who_waits_for_its_turn_hears_heartbeats",
    ),
    Break(
        "bookmarkable, in the SDK",
        "the cursor moves when a message is received",
        SDK,
        "self._delivery, self._handed_over = delivery, None\n",
        "self._delivery, self._handed_over, self.cursor = delivery, None, delivery.cursor\n",
        "tests/client/test_resumption.py",
    ),
    Break(
        "filtered: a cursor belongs to its filter",
        "the statuses are left out of what a cursor is bound to",
        LOG,
        "return [sorted(set(self.challenge_ids)), sorted({status.value for status in self.new_statuses})]",
        "return [sorted(set(self.challenge_ids)), []]",
        TEST_LOG,
    ),
    Break(
        "filtered: live events",
        "challenge_ids are not looked at",
        LOG,
        "(not challenge_ids or positioned.stored.challenge_id in challenge_ids)",
        "True",
        TEST_SHARED + "test_live_filters_choose_what_the_database_chooses",
    ),
    Break(
        "caught_up not before the end that the caller saw",
        "the tail is relied upon however far it lags behind",
        TAIL,
        "return self._log_id == log_id and self._place.position >= known_end",
        "return self._log_id == log_id",
        TEST_TAIL + "test_nobody_has_caught_up_before_the_end_that_the_caller_saw",
    ),
    Break(
        "caught_up again after falling behind",
        "who was told so once is not told again",
        TAIL,
        "and page.reached_end and not left_behind",
        "and page.reached_end",
        TEST_SHARED + "test_who_falls_behind_reads_the_table_loses_nothing_and_hears_again_that_it_has_caught_up",
    ),
    Break(
        "heartbeats at the asked interval",
        "they come three times as seldom",
        TAIL,
        "return self._last_told_at + self._heartbeat_s - self._clock()",
        "return self._last_told_at + 3 * self._heartbeat_s - self._clock()",
        TEST_TAIL + "test_silence_is_broken_by_heartbeats_at_the_asked_interval",
    ),
    Break(
        "heartbeats while waiting to catch up",
        "a turn is waited for in silence",
        TAIL,
        "while not await turn.has_come(self._silence_left_s()):",
        "while not await turn.has_come(3600.0):",
        TEST_SHARED + "test_who_waits_for_its_turn_hears_heartbeats",
    ),
    Break(
        "one reader for all",
        "everybody reads the table",
        TAIL,
        "return self._has_reached(log_id, known_end) and place.position >= self._place.position - len(self._kept)",
        "return False",
        TEST_SHARED + "test_many_followers_cost_the_queries_of_one",
    ),
    Break(
        "what is kept for all is bounded",
        "nothing is dropped",
        TAIL,
        "for position in list(islice(self._kept, max(0, len(self._kept) - MAX_KEPT))):",
        "for position in ():",
        TEST_SHARED + "test_who_falls_behind_reads_the_table_loses_nothing_and_hears_again_that_it_has_caught_up",
    ),
    Break(
        "one that stalls holds little",
        "it keeps all that was read for it",
        "engine/challenge_engine/turns.py",
        "        rest.clear()\n",
        "",
        TEST_SHARED + "test_one_that_stalls_holds_a_batch_and_nothing_else",
    ),
    Break(
        "one that stalls before its turn holds up nobody",
        "its turn waits for it",
        "engine/challenge_engine/turns.py",
        "            self._timer = self._loop.call_later(MAX_HAND_OVER_S, self._ask_again)",
        "            pass",
        "tests/engine/test_turns.py::test_who_does_not_begin_when_its_turn_comes_asks_again",
    ),
    Break(
        "one that stalls holds up nobody",
        "it keeps its turn",
        "engine/challenge_engine/turns.py",
        "MAX_HAND_OVER_S = 0.02",
        "MAX_HAND_OVER_S = 3600.0",
        TEST_SHARED + "test_those_that_stall_keep_nobody_from_catching_up",
    ),
    Break(
        "a stream does not hold up a stop",
        "readers that stall have all the time of a stop",
        "server/challenge_server/application.py",
        "LAST_CALLS_S = 3.0",
        "LAST_CALLS_S = 20.0",
        "tests/server/test_stream.py::test_readers_that_stall_and_watchers_of_health_do_not_hold_up_a_stop",
    ),
    Break(
        "draining ends with a heartbeat, then DRAINING",
        "the stream just ends",
        "server/challenge_server/servicer.py",
        '        raise DrainingError("the server is shutting down; follow on from another, after the last cursor")\n',
        "",
        "tests/server/test_stream.py::test_on_a_stop_streams_end_with_a_heartbeat_and_draining_and_do_not_hold_it_up",
    ),
    Break(
        "a lost LISTEN connection heals",
        "one that falls silent is waited for",
        "engine/challenge_engine/event_listener.py",
        "connection.notifies(timeout=CHECK_INTERVAL_S)",
        "connection.notifies()",
        "tests/engine/test_event_listener.py::test_a_connection_that_falls_silent_without_an_end_is_made_anew",
    ),
    Break(
        "a lost wake-up costs at most a poll",
        "nobody polls",
        TAIL,
        "await wait_at_most(news, POLL_INTERVAL_S)",
        "await wait_at_most(news, 3600.0)",
        TEST_TAIL + "test_with_every_wake_up_lost_events_come_by_poll",
    ),
    Break(
        "a giver of positions that dies is succeeded within seconds",
        "others look for its events every twenty seconds",
        "engine/challenge_engine/positions.py",
        "POLL_INTERVAL_S = 0.5",
        "POLL_INTERVAL_S = 20.0",
        TEST_POSITIONS + "test_a_process_that_dies_is_succeeded_within_a_second_or_two",
    ),
)


def table() -> str:
    """The promises as docs/event-streams.md shows them."""
    lines = ["| promise | broken on purpose | the test that fails |", "| --- | --- | --- |"]
    for each in BREAKS:
        file, _, name = each.test.rpartition("::") if "::" in each.test else (each.test, "", "")
        short = file.split("::")[0].removeprefix("tests/")
        lines.append(f"| {each.promise} | {each.how} | {short}{': `' + name + '`' if name else ''} |")
    return "\n".join(lines)


def _run(copy: Path, test: str) -> tuple[int, str]:
    """The exit code of pytest, negative when it had to be ended, and what it said."""
    rooms = [str(copy / room) for room in ("engine", "server", "client", ".")]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", test, "-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=60"],
        cwd=copy,
        # Ahead of the installed project, which is the one that is not broken.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(rooms)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # With the servers that its tests have started.
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        return process.returncode, said


def main() -> int:
    """Make every break, run its test, and say which tests did not notice."""
    copy = ROOT / "build" / "promises"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, copy / name)
    unnoticed = 0
    for test in sorted({each.test for each in BREAKS}):
        code, said = _run(copy, test)
        if code != 0:
            print(f"fails by itself: {test}\n{said[-2000:]}")
            return 2
    for each in BREAKS:
        file = copy / each.file
        sound = file.read_text(encoding="utf-8")
        if sound.count(each.old) != 1:
            print(f"{each.promise}: {each.file} has the text to break {sound.count(each.old)} times, not once")
            return 2
        file.write_text(sound.replace(each.old, each.new), encoding="utf-8")
        try:
            code, said = _run(copy, each.test)
        finally:
            file.write_text(sound, encoding="utf-8")
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
        noticed = code == 1 and bool(failed)
        unnoticed += not noticed
        print(f"{'noticed' if noticed else 'NOT NOTICED'}: {each.promise} ({each.how}): {' '.join(failed)}", flush=True)
    print(f"{len(BREAKS) - unnoticed} of {len(BREAKS)} breaks noticed")
    shutil.rmtree(copy)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        print(table())
    else:
        sys.exit(main())
