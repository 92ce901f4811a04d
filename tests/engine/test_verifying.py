"""Verification: a history as the service wrote it is clean, and whatever is changed afterwards is found and named."""

import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from challenge_engine import queries, rows
from challenge_engine.auditing import MAX_NAMED, Fault
from challenge_engine.checkpoint_reading import checkpoint_reader
from challenge_engine.keys import SealKey, make_key
from challenge_engine.sealing import Sealer
from challenge_engine.verifying import Report, replay, verify
from challenge_rules import ChallengeEngine, RecordedTrade
from challenge_rules.chain import encode_leaf
from challenge_rules.merkle import CompactRange, leaf_hash
from challenge_rules.money import format_amount
from challenge_rules.notes import Checkpoint, SignedNote
from tests.engine.harness import NOW, RunningEngine, running_engine, sql, submission, tampering

TRADES = 9


@dataclass
class Sealed:
    """A database of four challenges of TRADES trades each but the last, sealed and exported."""

    url: URL
    key: SealKey
    exported: Path
    active: str
    failed: str
    other: str
    pending: str

    def verify(self, *, with_export: bool = True) -> Report:
        return verify(self.url, keys=[self.key.public], exported=[self.exported] if with_export else [])

    async def tamper(self, *statements: str) -> None:
        names = {"active": self.active, "failed": self.failed, "other": self.other, "pending": self.pending}
        async with tampering(self.url) as connection:
            for statement in statements:
                await connection.execute(
                    re.sub(r":(active|failed|other|pending)\b", lambda name: f"'{names[name[1]]}'", statement)
                )


async def seal(engine: RunningEngine, key: SealKey, *, adopts_tree: bool = False) -> None:
    sealer = Sealer(engine.database, [key], clock=lambda: NOW, adopts_tree=adopts_tree)
    await sealer.seal_all()
    await sealer.stop()


@pytest.fixture
async def sealed(database_url: URL, tmp_path: Path) -> Sealed:
    key = make_key(tmp_path / "key.pem")
    dice = random.Random(11)
    async with running_engine(database_url) as engine:
        active, failed, other, pending = [await engine.create() for _ in range(4)]
        for number in range(1, TRADES + 1):
            await engine.batch(
                *(
                    submission(each, f"t{number}", format_amount(dice.randint(-(10**10), 10**10)), number * 7_200)
                    for each in (active, other)
                ),
                submission(failed, f"t{number}", "-6000" if number == TRADES else "10", number * 7_200),
            )
            if number % 4 == 0:
                await seal(engine, key)
        await engine.positions.assign_all()
        await seal(engine, key)
    exported = tmp_path / "checkpoints"
    exported.mkdir()
    with checkpoint_reader(database_url) as reader:
        reader.export_to(exported, reader.newest())
    return Sealed(database_url, key, exported, active, failed, other, pending)


def places(report: Report, *faults: Fault) -> set[tuple[str | None, int | None]]:
    """Where something was found, by faults of some kinds."""
    return {(each.challenge_id, each.sequence) for each in report.findings if not faults or each.fault in faults}


async def test_a_history_as_the_service_wrote_it_is_clean(sealed: Sealed):
    report = sealed.verify()
    assert report.findings == []
    assert report.is_clean
    assert (report.challenges, report.trades, report.events) == (4, 3 * TRADES, 4 + 3 + 1)
    assert (report.leaves, report.checkpoints, report.signed_checkpoints, report.exported_checkpoints) == (10, 3, 3, 1)
    assert report.notes == []
    assert replay(sealed.url).is_clean
    assert replay(sealed.url, challenge_ids=[sealed.failed]).trades == TRADES


ONE = "challenge_id = :active AND sequence = 5"

TAMPERED: dict[str, tuple[list[str], set[tuple[str, int]]]] = {
    "a P&L": ([f"UPDATE trades SET realized_pnl = realized_pnl + 1 WHERE {ONE}"], {("active", 5)}),
    "a moment": (
        [f"UPDATE trades SET executed_at = executed_at + interval '1 microsecond' WHERE {ONE}"],
        {("active", 5)},
    ),
    "a trade_id": ([f"UPDATE trades SET trade_id = 'x' WHERE {ONE}"], {("active", 5)}),
    "a symbol": ([f"UPDATE trades SET symbol = 'x' WHERE {ONE}"], {("active", 5)}),
    "when it was recorded": (
        [f"UPDATE trades SET recorded_at = recorded_at + interval '1 second' WHERE {ONE}"],
        {("active", 5)},
    ),
    "an equity": ([f"UPDATE trades SET equity = equity - 1 WHERE {ONE}"], {("active", 5), ("active", 6)}),
    "a peak": (
        [f"UPDATE trades SET peak_equity = peak_equity + 1 WHERE {ONE}"],
        {("active", 5)},
    ),
    "a repeated balance": ([f"UPDATE trades SET initial_balance = initial_balance + 1 WHERE {ONE}"], {("active", 5)}),
    "a status": (["UPDATE trades SET status = 'ACTIVE', reason = NULL WHERE status = 'FAILED'"], {("failed", TRADES)}),
    "a moment that never comes": ([f"UPDATE trades SET executed_at = 'infinity' WHERE {ONE}"], {("active", 5)}),
    "an amount that is none": ([f"UPDATE trades SET realized_pnl = 'NaN' WHERE {ONE}"], {("active", 5)}),
    "an event that never comes": (
        ["UPDATE challenge_events SET recorded_at = 'infinity' WHERE new_status = 'FAILED'"],
        {("failed", TRADES)},
    ),
    "a challenge that began long ago": (
        ["UPDATE challenges SET created_at = '-infinity' WHERE challenge_id = :active"],
        {("active", TRADES)},
    ),
    "a repeated balance that is none": (
        [f"UPDATE trades SET initial_balance = 'NaN' WHERE {ONE}"],
        {("active", 5)},
    ),
    "a moment before all time": ([f"UPDATE trades SET executed_at = '0044-03-15 BC' WHERE {ONE}"], {("active", 5)}),
    "a moment after all time": ([f"UPDATE trades SET executed_at = '20000-01-01' WHERE {ONE}"], {("active", 5)}),
    "a sequence far away": (
        [f"UPDATE trades SET sequence = 1000000000000 WHERE challenge_id = :active AND sequence = {TRADES}"],
        {("active", TRADES)},
    ),
    "labels that are none": (["UPDATE challenges SET labels = '[1]' WHERE challenge_id = :pending"], {("pending", 0)}),
    **{
        f"terms with {what}": (
            [f"UPDATE challenge_events SET terms = terms || '{json}' WHERE challenge_id = :pending"],
            {("pending", 0)},
        )
        for what, json in (
            ("a note", '{"note":"void"}'),
            ("a list of labels", '{"labels":[]}'),
            ("a label that is a number", '{"labels":{"a":1}}'),
            ("a currency that is a number", '{"currency_code":5}'),
            ("a version that is true", '{"rules_version":true}'),
            ("a version that is a list", '{"rules_version":[]}'),
            ("a version that is 1.0", '{"rules_version":1.0}'),
            ("no balance", '{"initial_balance":"0"}'),
            ("a balance with zeros", '{"initial_balance":"100000.000"}'),
            ("another clock", '{"created_at":"2025-01-01T13:00:00.000000+01:00"}'),
        )
    },
    **{
        f"evidence with {what}": (
            [
                f"UPDATE challenge_events SET evaluations = jsonb_set(evaluations, '{path}', '{json}')"
                " WHERE new_status = 'FAILED'"
            ],
            {("failed", TRADES)},
        )
        for what, path, json in (
            ("a verdict of its own", "{0,verdict}", '"FUNDED"'),
            ("1 for true", "{0,triggered}", "1"),
            ("nothing for true", "{0,triggered}", "null"),
        )
    },
    "a link": ([f"UPDATE trades SET chain_hash = sha256('') WHERE {ONE}"], {("active", 5)}),
    "two trades at once": (
        [
            "UPDATE trades SET symbol = 'x' WHERE challenge_id = :active AND sequence = 2",
            "UPDATE trades SET symbol = 'x' WHERE challenge_id = :active AND sequence = 7",
        ],
        {("active", 2), ("active", 7)},
    ),
    "a trade deleted": ([f"DELETE FROM trades WHERE {ONE}"], {("active", 5)}),
    "the first trade deleted": (
        ["DELETE FROM trades WHERE challenge_id = :active AND sequence = 1"],
        {("active", 1)},
    ),
    "the last trade deleted": (
        [f"DELETE FROM trades WHERE challenge_id = :active AND sequence = {TRADES}"],
        {("active", TRADES)},
    ),
    "a trade inserted": (
        [
            "INSERT INTO trades SELECT challenge_id, sequence + 1, 'more', realized_pnl,"
            " executed_at + interval '1 hour', symbol, initial_balance, equity, peak_equity, daily_start_equity,"
            f" status, status, reason, recorded_at, chain_hash FROM trades"
            f" WHERE challenge_id = :active AND sequence = {TRADES}"
        ],
        {("active", TRADES + 1)},
    ),
    "two trades exchanged": (
        [
            "UPDATE trades SET sequence = 100 WHERE challenge_id = :active AND sequence = 5",
            "UPDATE trades SET sequence = 5 WHERE challenge_id = :active AND sequence = 6",
            "UPDATE trades SET sequence = 6 WHERE challenge_id = :active AND sequence = 100",
        ],
        {("active", 5), ("active", 6)},
    ),
    "trades exchanged between challenges": (
        [
            "UPDATE trades SET sequence = 100 WHERE challenge_id = :active AND sequence = 5",
            "UPDATE trades SET challenge_id = :active, trade_id = 'o5' WHERE challenge_id = :other AND sequence = 5",
            "UPDATE trades SET challenge_id = :other, sequence = 5 WHERE challenge_id = :active AND sequence = 100",
            "UPDATE trades SET trade_id = 't5' WHERE challenge_id = :active AND sequence = 5",
        ],
        {("active", 5), ("other", 5)},
    ),
    "an event's reason": (
        ["UPDATE challenge_events SET reason = 'MAX_TOTAL_DRAWDOWN' WHERE reason IS NOT NULL"],
        {("failed", TRADES)},
    ),
    "an event's evidence": (
        [
            "UPDATE challenge_events SET evaluations = jsonb_set(evaluations, '{0,headroom}', '\"1\"')"
            " WHERE new_status = 'FAILED'"
        ],
        {("failed", TRADES)},
    ),
    "evidence that cannot be read": (
        ["UPDATE challenge_events SET evaluations = '[1]' WHERE new_status = 'FAILED'"],
        {("failed", TRADES)},
    ),
    "an event deleted": (["DELETE FROM challenge_events WHERE new_status = 'FAILED'"], {("failed", TRADES)}),
    "an event in the middle deleted": (
        ["DELETE FROM challenge_events WHERE challenge_id = :failed AND new_status = 'ACTIVE'"],
        {("failed", 1)},
    ),
    "an event inserted": (
        [
            "INSERT INTO challenge_events SELECT :active, 3, event_type, old_status, new_status, reason, 't5', 5,"
            " equity, evaluations, terms, occurred_at, recorded_at, chain_hash FROM challenge_events"
            " WHERE new_status = 'FAILED'"
        ],
        {("active", 5)},
    ),
    "an event of no trade": (
        [
            "INSERT INTO challenge_events SELECT :active, 3, event_type, old_status, new_status, reason, 't5', 77,"
            " equity, evaluations, terms, occurred_at, recorded_at, chain_hash FROM challenge_events"
            " WHERE new_status = 'FAILED'"
        ],
        {("active", 77)},
    ),
    "the terms": (
        [
            "UPDATE challenge_events SET terms = jsonb_set(terms, '{profit_target_pct}', '\"11\"')"
            " WHERE challenge_id = :pending"
        ],
        {("pending", 0)},
    ),
    "the creation deleted": (
        ["DELETE FROM challenge_events WHERE challenge_id = :other AND challenge_sequence = 1"],
        {("other", 0)},
    ),
    "a current state": (
        ["UPDATE challenges SET equity = equity - 1 WHERE challenge_id = :active"],
        {("active", TRADES)},
    ),
    "a verdict": (
        ["UPDATE challenges SET status = 'FUNDED', status_reason = 'PROFIT_TARGET' WHERE challenge_id = :failed"],
        {("failed", TRADES)},
    ),
    "a label": (['UPDATE challenges SET labels = \'{"a":"b"}\' WHERE challenge_id = :pending'], {("pending", 0)}),
    "a limit": (
        ["UPDATE challenges SET max_daily_drawdown_pct = 6 WHERE challenge_id = :failed"],
        {("failed", TRADES)},
    ),
    "a row of a challenge deleted": (["DELETE FROM challenges WHERE challenge_id = :active"], {("active", TRADES)}),
    "a whole challenge deleted": (
        [
            "DELETE FROM event_positions WHERE challenge_id = :active",
            "DELETE FROM trades WHERE challenge_id = :active",
            "DELETE FROM challenge_events WHERE challenge_id = :active",
            "DELETE FROM challenges WHERE challenge_id = :active",
        ],
        {("active", 4), ("active", 8), ("active", TRADES)},
    ),
    "trades deleted and said to be archived": (
        [
            "INSERT INTO archives VALUES (gen_random_uuid(), 'x', sha256(''), 1, 9, 'x', now())",
            "UPDATE challenges SET archive_id = (SELECT archive_id FROM archives) WHERE challenge_id = :active",
            "DELETE FROM trades WHERE challenge_id = :active",
        ],
        {("active", TRADES)},
    ),
    "trades said to be in an archive that is none": (
        [
            "UPDATE challenges SET archive_id = gen_random_uuid() WHERE challenge_id = :failed",
            "DELETE FROM trades WHERE challenge_id = :failed",
        ],
        {("failed", TRADES)},
    ),
    "the tail cut consistently": (
        [
            f"DELETE FROM trades WHERE challenge_id = :active AND sequence = {TRADES}",
            "UPDATE challenges c SET equity = t.equity, peak_equity = t.peak_equity,"
            " daily_start_equity = t.daily_start_equity, last_sequence = t.sequence, last_executed_at = t.executed_at,"
            " trading_day = date(t.executed_at AT TIME ZONE 'UTC'), chain_head = t.chain_hash FROM trades t"
            f" WHERE c.challenge_id = :active AND t.challenge_id = :active AND t.sequence = {TRADES - 1}",
        ],
        {("active", TRADES)},
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_whatever_is_tampered_with_is_found_and_named(sealed: Sealed, what: str):
    statements, expected = TAMPERED[what]
    await sealed.tamper(*statements)
    report = sealed.verify(with_export=False)
    named = {(getattr(sealed, name), sequence) for name, sequence in expected}
    assert named <= places(report)
    # Nothing else is accused: findings may lie on the tampered places, and on what no longer follows from them.
    assert {challenge_id for challenge_id, _ in places(report)} <= {each for each, _ in named} | {None}
    assert len(report.findings) <= (4 * len(named) + 2 if what != "a sequence far away" else MAX_NAMED + 5)


LOG_AND_TREE: dict[str, tuple[str, Fault]] = {
    "a position deleted": ("DELETE FROM event_positions WHERE position = 3", Fault.LOG),
    "a position's status": (
        "UPDATE event_positions SET new_status = 'FUNDED' WHERE new_status = 'FAILED'",
        Fault.LOG,
    ),
    "positions of one challenge exchanged": (
        "UPDATE event_positions p SET position = 1000 - position WHERE challenge_id = :failed",
        Fault.LOG,
    ),
    "a leaf": ("UPDATE checkpoint_leaves SET sequence = 100 WHERE leaf_index = 5", Fault.CHECKPOINT),
    "a leaf deleted": ("DELETE FROM checkpoint_leaves WHERE leaf_index = 5", Fault.CHECKPOINT),
    "the last leaf deleted": ("DELETE FROM checkpoint_leaves WHERE leaf_index = 9", Fault.CHECKPOINT),
    "a leaf more": (
        "INSERT INTO checkpoint_leaves SELECT 10, challenge_id, 7, chain_hash FROM trades"
        " WHERE challenge_id = :active AND sequence = 7",
        Fault.CHECKPOINT,
    ),
    "a signed time": ("UPDATE checkpoints SET note = replace(note, 'sealed_at 2', 'sealed_at 1')", Fault.CHECKPOINT),
    "a checkpoint's size": ("UPDATE checkpoints SET tree_size = 14 WHERE tree_size = 10", Fault.CHECKPOINT),
    "a checkpoint that is none": ("UPDATE checkpoints SET note = 'x' WHERE tree_size = 10", Fault.CHECKPOINT),
    "when a checkpoint was signed": (
        "UPDATE checkpoints SET sealed_at = sealed_at - interval '1 day' WHERE tree_size = 10",
        Fault.CHECKPOINT,
    ),
    "a trigger that rests": ("ALTER TABLE trades DISABLE TRIGGER trades_append_only", Fault.LOG),
    "the log's identity": ("DELETE FROM event_log", Fault.LOG),
    "a place for an event that is not there": ("INSERT INTO event_outbox VALUES (DEFAULT, :active, 99)", Fault.LOG),
    "a subtree that does not exist": (
        "INSERT INTO checkpoint_tiles VALUES (8, 0, sha256(''))",
        Fault.CHECKPOINT,
    ),
}


@pytest.mark.parametrize("what", LOG_AND_TREE)
async def test_the_log_and_the_sealed_tree_are_verified_too(sealed: Sealed, what: str):
    statement, fault = LOG_AND_TREE[what]
    identity = await sql(sealed.url, "SELECT only_row, log_id, origin FROM event_log")
    if what == "a trigger that rests":
        await sql(sealed.url, statement)
    else:
        await sealed.tamper(statement)
    try:
        found = sealed.verify(with_export=False).findings
    finally:
        await sql(sealed.url, "ALTER TABLE trades ENABLE ALWAYS TRIGGER trades_append_only")
        await sql(sealed.url, "INSERT INTO event_log VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", identity[0])
    assert fault in {each.fault for each in found}


async def rewrite(sealed: Sealed, challenge_id: str, *, pnl: str = "1", at: int = 5, cut: bool = False) -> None:
    """Rewrite a history from one trade on, or cut it there, as someone would who knows all of this code: decisions,
    events, links and state follow from each other again."""
    found = await sql(
        sealed.url,
        f"SELECT {queries.EVENT_COLUMNS} FROM challenge_events e WHERE challenge_id = %s ORDER BY challenge_sequence",
        (challenge_id,),
    )
    terms = rows.event_from_row(found[0]).terms
    assert terms is not None
    pure = ChallengeEngine()
    stored = await sql(
        sealed.url,
        f"SELECT {queries.TRADE_COLUMNS} FROM trades t WHERE challenge_id = %s ORDER BY sequence",
        (challenge_id,),
    )
    state, _ = pure.create(terms)
    accepted, events = [], []
    for recorded in (rows.trade_from_row(row, terms, pure) for row in stored):
        trade, decision = recorded.trade, recorded.decision
        if decision.sequence >= at and cut:
            break
        if decision.sequence == at:
            trade = replace(trade, realized_pnl=int(pnl) * 10**8)
        assert decision.recorded_at is not None
        outcome = pure.decide(state, trade, recorded_at=decision.recorded_at)
        state = outcome.state
        accepted.append((RecordedTrade(trade, outcome.decision, state.chain_head), terms.initial_balance))
        events.extend(outcome.events)
    async with tampering(sealed.url) as connection:
        await connection.execute("DELETE FROM trades WHERE challenge_id = %s", (challenge_id,))
        await connection.execute(
            "DELETE FROM challenge_events WHERE challenge_id = %s AND challenge_sequence > 1", (challenge_id,)
        )
        await connection.execute(queries.INSERT_TRADES, (rows.trades_to_json(accepted),))
        await connection.execute(queries.INSERT_EVENTS, (rows.events_to_json(events),))
        await connection.execute("DELETE FROM event_outbox")
        moved, ids = rows.challenges_to_json([(TRADES + 1, state)]), rows.uuid_array([challenge_id])
        changed = await connection.execute(queries.UPDATE_CHALLENGES, (ids, moved, ids))
        assert changed.rowcount == 1
        await connection.execute("DELETE FROM seal_outbox")


async def reseal(sealed: Sealed, *, signed: bool) -> None:
    """Make the sealed tree fit a rewritten history: its leaves are those of now, and the checkpoints follow.

    With the key (`signed`) nothing inside the database shows it any more.
    """
    found = await sql(
        sealed.url,
        "SELECT l.leaf_index, l.challenge_id::text, l.sequence, coalesce(t.chain_hash, e.chain_hash)"
        " FROM checkpoint_leaves l LEFT JOIN trades t USING (challenge_id, sequence)"
        " LEFT JOIN challenge_events e ON e.challenge_id = l.challenge_id AND l.sequence = 0"
        " AND e.challenge_sequence = 1 ORDER BY leaf_index",
    )
    leaves = [row[1:] for row in found if row[3] is not None]
    sizes = [size for (size,) in await sql(sealed.url, "SELECT tree_size FROM checkpoints ORDER BY 1")]
    sizes = sorted({min(size, len(leaves)) for size in sizes})
    ((old,),) = await sql(sealed.url, "SELECT note FROM checkpoints ORDER BY tree_size LIMIT 1")
    origin = Checkpoint.parse_body(SignedNote.parse(old).text).origin
    async with tampering(sealed.url) as connection:
        await connection.execute("DELETE FROM checkpoint_leaves")
        await connection.execute("DELETE FROM checkpoints")
        tree = CompactRange()
        for index, leaf in enumerate(leaves):
            await connection.execute("INSERT INTO checkpoint_leaves VALUES (%s, %s, %s, %s)", (index, *leaf))
            tree.append(leaf_hash(encode_leaf(*leaf)))
            if tree.size in sizes:
                body = Checkpoint(origin, tree.size, tree.root(), ("sealed_at 2025-10-29T12:00:00.000000Z",)).body
                note = (
                    SignedNote(body, (sealed.key.sign(body),)) if signed else replace(SignedNote.parse(old), text=body)
                )
                await connection.execute(
                    "INSERT INTO checkpoints VALUES (%s, %s, '2025-10-29T12:00:00Z')", (tree.size, note.encode())
                )


async def test_a_chain_rewritten_consistently_is_found_by_its_seals(sealed: Sealed):
    await rewrite(sealed, sealed.active)
    assert replay(sealed.url).is_clean
    report = sealed.verify(with_export=False)
    # Sealed were the 4th, the 8th and the last trade; the first that no longer fits is the 8th.
    assert places(report, Fault.SEAL) == {(sealed.active, 8), (sealed.active, TRADES)}


async def test_a_tree_rewritten_with_it_fails_by_its_signatures(sealed: Sealed):
    await rewrite(sealed, sealed.active)
    await reseal(sealed, signed=False)
    report = sealed.verify(with_export=False)
    assert {each.fault for each in report.findings} == {Fault.CHECKPOINT}
    assert "signature" in report.findings[0].message


@pytest.mark.parametrize("cut", [False, True], ids=["rewritten", "cut"])
async def test_whoever_has_the_key_and_rewrites_everything_is_found_by_an_exported_checkpoint(
    sealed: Sealed, cut: bool
):
    """A superuser with the signing key: inside the database everything fits again."""
    await rewrite(sealed, sealed.active, cut=cut)
    await reseal(sealed, signed=True)
    inside = sealed.verify(with_export=False)
    assert inside.findings == []
    report = sealed.verify()
    assert {(sealed.active, 8), (sealed.active, TRADES)} <= places(report)
    assert {each for each, _ in places(report)} <= {sealed.active, None} if not cut else True
    assert Fault.SEAL in {each.fault for each in report.findings}


async def test_an_exported_file_without_leaves_shows_that_the_tree_is_another_one(sealed: Sealed, tmp_path: Path):
    note = next(sealed.exported.glob("*.checkpoint"))
    alone = tmp_path / "alone.checkpoint"
    alone.write_bytes(note.read_bytes())
    assert verify(sealed.url, keys=[sealed.key.public], exported=[alone]).is_clean
    await rewrite(sealed, sealed.active)
    await reseal(sealed, signed=True)
    report = verify(sealed.url, keys=[sealed.key.public], exported=[alone])
    assert {each.fault for each in report.findings} == {Fault.CHECKPOINT}
    assert any("may not be named" in note for note in report.notes)


async def test_what_comes_after_an_export_is_no_finding(sealed: Sealed):
    async with running_engine(sealed.url) as engine:
        await engine.trading.submit(submission(sealed.active, "more", "1", 10**6))
        await engine.create()
        await engine.positions.assign_all()
        assert sealed.verify().waiting == 2
        await seal(engine, sealed.key)
    report = sealed.verify()
    assert (report.findings, report.waiting, report.leaves) == ([], 0, 12)


async def test_an_exported_checkpoint_that_was_deleted_here_is_missed(sealed: Sealed):
    await sealed.tamper(
        "DELETE FROM checkpoints WHERE tree_size = 10", "DELETE FROM checkpoint_leaves WHERE leaf_index > 6"
    )
    report = sealed.verify()
    assert any("is not among the checkpoints" in each.message for each in report.findings)


async def test_whatever_lies_in_a_directory_of_checkpoints_is_compared(sealed: Sealed, tmp_path: Path):
    """An auditor gives files names of their own."""
    stranger = make_key(tmp_path / "stranger.pem")
    body = Checkpoint("challenge-engine/other", 1, bytes(32)).body
    path = sealed.exported / "2026-11-27.checkpoint"
    path.write_text(SignedNote(body, (stranger.sign(body),)).encode())
    messages = [each.message for each in sealed.verify().findings]
    assert any(str(path) in message for message in messages)
    alone = tmp_path / "alone"
    alone.mkdir()
    path.rename(alone / "mine")
    assert sealed.verify().is_clean
    assert not verify(sealed.url, exported=[alone]).is_clean


async def test_a_challenge_that_does_not_exist_is_not_said_to_be_right(sealed: Sealed):
    unknown = "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"
    assert [each.challenge_id for each in replay(sealed.url, challenge_ids=[unknown]).findings] == [unknown]


async def test_a_chain_that_nobody_is_going_to_seal_is_found(sealed: Sealed):
    async with running_engine(sealed.url) as engine:
        await engine.trading.submit(submission(sealed.active, "more", "1", 10**6))
    await sealed.tamper("DELETE FROM seal_outbox")
    assert places(sealed.verify(), Fault.SEAL) == {(sealed.active, TRADES + 1)}


async def test_without_a_key_the_report_says_that_signatures_were_not_checked(sealed: Sealed, tmp_path: Path):
    report = verify(sealed.url)
    assert report.is_clean
    assert report.notes == ["signatures were not checked: no key was given"]
    stranger = make_key(tmp_path / "stranger.pem")
    report = verify(sealed.url, keys=[stranger.public], exported=[sealed.exported])
    assert {each.fault for each in report.findings} == {Fault.CHECKPOINT}


async def test_an_exported_file_that_was_changed_itself_is_not_believed(sealed: Sealed, tmp_path: Path):
    leaves = next(sealed.exported.glob("*.leaves"))
    lines = leaves.read_text()
    leaves.write_text(lines.replace(lines[-5:-1], "0000"))
    assert any("not those of its checkpoint" in each.message for each in sealed.verify().findings)


async def test_a_database_that_was_never_sealed_is_verified_as_far_as_that_goes(engine: RunningEngine):
    challenge_id = await engine.create()
    await engine.trading.submit(submission(challenge_id, "t1", "1"))
    await engine.positions.assign_all()
    report = verify(engine.url)
    assert (report.findings, report.waiting, report.checkpoints) == ([], 1, 0)
    assert "nothing has been sealed" in report.notes[0]


async def test_rules_of_a_later_release_are_named_and_not_guessed(engine: RunningEngine):
    challenge_id = await engine.create()
    async with tampering(engine.url) as connection:
        await connection.execute(
            "UPDATE challenge_events SET terms = jsonb_set(terms, '{rules_version}', '99') WHERE challenge_id = %s",
            (challenge_id,),
        )
    (finding,) = replay(engine.url).findings
    assert (finding.fault, finding.challenge_id, finding.sequence) == (Fault.UNREADABLE, challenge_id, 0)
    assert "rules version 99 is unknown" in finding.message


async def test_a_trade_after_the_end_is_refused_by_the_rules(sealed: Sealed):
    await sealed.tamper(
        "INSERT INTO trades SELECT challenge_id, sequence + 1, 'more', 1, executed_at + interval '1 hour', symbol,"
        " initial_balance, equity, peak_equity, daily_start_equity, 'ACTIVE', 'ACTIVE', NULL, recorded_at, chain_hash"
        f" FROM trades WHERE challenge_id = :failed AND sequence = {TRADES}"
    )
    messages = [each.message for each in replay(sealed.url).findings if each.sequence == TRADES + 1]
    assert any("CHALLENGE_TERMINAL" in message for message in messages)
