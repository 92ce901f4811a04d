"""`keygen`, `checkpoint`, `replay`, `verify` and `prove` as operators, auditors and programs meet them.

Beside a server that runs meanwhile, on a PostgreSQL whose superuser may tamper with everything.
"""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from challenge_client.cli.commands import app as client_app
from challenge_engine.checkpoint_files import read_exported
from challenge_engine.database import normalise_url
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.keys import load_key, parse_public_key, verify_signature
from challenge_engine.proving import prove
from challenge_rules.notes import Checkpoint, SignedNote
from challenge_rules.proof import check_proof
from challenge_server.cli import app
from challenge_server.fills import read_fills
from propfirm.challenge.v1 import challenge_pb2 as pb
from propfirm.challenge.v1.challenge_pb2_grpc import ChallengeServiceStub
from tests.conftest import SEAL_KEY_VARIABLE, ServerProcess, _fresh_database
from tests.engine.harness import PROTECT, UNPROTECT
from tests.server.calls import (
    PATIENCE_S,
    after,
    batch,
    clean_environment,
    connected,
    eventually,
    libpq,
    make_challenge,
    new_id,
    submission,
    url_text,
)
from tests.server.test_crash import Sender

CLEAN, NOT_DONE, USAGE, FINDINGS = 0, 1, 2, 4
FAILING_ACCOUNT = "0x083384f897ee0f19899168e3b1bec365f52a9012"
FAILED_AT, FAILED_EQUITY = 288, "94274.171867"
NOWHERE = "postgresql://nobody@127.0.0.1:1/x"

Start = Callable[..., ServerProcess]


def run(*arguments: str, code: int = CLEAN) -> Result:
    """A command within this process, in an environment without settings of the service."""
    ours: dict[str, str | None] = {name: None for name in os.environ if name.startswith("CHALLENGE_")}
    ended = CliRunner(env=ours | {"COLUMNS": "200"}).invoke(app, list(arguments))
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    assert ended.exit_code == code, ended.output
    return ended


def refused(*arguments: str) -> str:
    """What a command says on standard error that cannot do its work: one line, no output, and exit code 1."""
    ended = run(*arguments, code=NOT_DONE)
    assert ended.stdout == ""
    assert ended.stderr.startswith("challenge-engine: error: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


@dataclass
class Audited:
    """A database, the public key of its seals, and a challenge that failed on real trades."""

    url: URL
    key: str
    failed: str = ""

    def run(self, *arguments: str, code: int = CLEAN) -> Result:
        return run(*arguments, "--database-url", url_text(self.url), code=code)

    def refused(self, *arguments: str) -> str:
        return refused(*arguments, "--database-url", url_text(self.url))

    def report(self, command: str, *options: str, code: int = CLEAN) -> dict[str, Any]:
        """The report for programs."""
        ended = self.run(command, "--json", *options, code=code)
        assert ended.stderr == ""
        assert ended.stdout.count("\n") == 1
        report: dict[str, Any] = json.loads(ended.stdout)
        assert report["clean"] is (code == CLEAN)
        assert len(report["findings"]) == report["finding_count"]
        assert (report["finding_count"] == 0) is report["clean"]
        return report

    def verify(self, *options: str, code: int = CLEAN) -> dict[str, Any]:
        return self.report("verify", "--key", self.key, *options, code=code)

    def prove(self, path: Path, challenge_id: str | None = None) -> str:
        """Write a proof; what the command says of it."""
        ended = self.run("prove", challenge_id or self.failed, "-o", str(path))
        assert ended.stdout == ""
        return ended.stderr

    def rows(self, statement: str) -> list[Any]:
        with psycopg.connect(libpq(self.url)) as connection:
            return connection.execute(statement.encode()).fetchall()

    def tamper(self, *statements: str) -> None:
        """As a superuser whom no trigger and no foreign key keeps from anything."""
        with psycopg.connect(libpq(self.url)) as connection:
            for statement in (UNPROTECT, *statements, PROTECT):
                connection.execute(statement.encode())

    def is_alone(self) -> bool:
        """Whether no session is left, such as one that finishes what a server told it last."""
        others = "datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        return self.rows(f"SELECT count(*) FROM pg_stat_activity WHERE {others}") == [(0,)]

    def sealed(self) -> None:
        """Return once the server has sealed everything."""
        eventually(lambda: self.rows("SELECT NOT EXISTS (SELECT FROM seal_outbox)") == [(True,)])


def places(report: dict[str, Any]) -> set[tuple[str, str | None, int | None]]:
    return {(each["fault"], each["challenge_id"], each["sequence"]) for each in report["findings"]}


def environment_key() -> str:
    """The public half of the key by which every server of the tests seals."""
    return str(load_key(Path(os.environ[SEAL_KEY_VARIABLE])).public)


def fail_on_real_trades(stub: ChallengeServiceStub) -> str:
    """A challenge with the trades of a real account, until they end it."""
    challenge_id = make_challenge(stub, labels={"account": FAILING_ACCOUNT})
    fills = [
        submission(challenge_id, each.trade_id, f"{each.realized_pnl.normalize():f}", each.executed_at, each.symbol)
        for each in read_fills()[FAILING_ACCOUNT][: FAILED_AT + 2]
    ]
    results = batch(stub, *fills)
    assert [result.HasField("decision") for result in results] == [True] * FAILED_AT + [False] * 2
    return challenge_id


@pytest.fixture(scope="module")
def real(postgres: EmbeddedPostgres) -> Iterator[Audited]:
    """A database that nobody tampers with, and its server, for as long as this module's tests last."""
    with _fresh_database(postgres) as url:
        server = ServerProcess("--listen", "127.0.0.1:0", "--log-level", "error", "--database-url", url_text(url))
        audited = Audited(url, environment_key())
        with connected(server.wait_ready()) as stub:
            make_challenge(stub)
            audited.failed = fail_on_real_trades(stub)
        audited.sealed()
        yield audited
        assert server.stop() == 0
        assert server.stderr() == ""
        server.close()


@pytest.fixture
def own(database_url: URL, start_server: Start) -> Audited:
    """A database of the test's own, whose server goes on while somebody tampers with it: A, then B, which failed."""
    audited = Audited(database_url, environment_key())
    server = start_server("--log-level", "error", "--database-url", url_text(database_url))
    with connected(server.address) as stub:
        steady = make_challenge(stub)
        batch(stub, *(submission(steady, f"t{number}", "1", after(number)) for number in range(60)))
        audited.sealed()
        audited.failed = make_challenge(stub)
        batch(stub, *(submission(audited.failed, f"t{n}", pnl, after(n)) for n, pnl in enumerate(("5", "-6000"))))
        audited.sealed()
    return audited


def other_of(audited: Audited) -> str:
    ((challenge_id,),) = audited.rows(
        f"SELECT challenge_id::text FROM challenges WHERE challenge_id <> '{audited.failed}'"
    )
    return str(challenge_id)


# keygen


def test_keygen_makes_a_key_for_the_server_and_one_for_auditors_and_never_overwrites_it(tmp_path: Path) -> None:
    path = tmp_path / "seal.pem"
    made = run("keygen", "-o", str(path))
    assert str(load_key(path).public) == made.stdout.strip()
    assert str(parse_public_key(str(path) + ".pub")) == made.stdout.strip()
    assert "keep it secret" in made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert "never overwritten" in refused("keygen", "--output", str(path))
    assert run("keygen", "-o", str(path), "--if-missing").stdout == made.stdout
    assert path.read_bytes() == content
    assert run("keygen", "-o", str(tmp_path / "other.pem"), "--if-missing").stdout != made.stdout


def test_keygen_says_where_it_cannot_write_and_what_is_no_key(tmp_path: Path) -> None:
    assert "cannot write the key" in refused("keygen", "-o", str(tmp_path / "absent" / "seal.pem"))
    (tmp_path / "text.pem").write_text("no key")
    assert "Ed25519 private key" in refused("keygen", "-o", str(tmp_path / "text.pem"), "--if-missing")
    assert (tmp_path / "text.pem").read_text() == "no key"


def test_keygen_without_a_name_takes_the_one_that_its_help_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("keygen")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["seal-key.pem", "seal-key.pem.pub"]


# checkpoint


def test_the_newest_checkpoint_goes_to_standard_output_alone(real: Audited) -> None:
    made = real.run("checkpoint")
    assert made.stderr == ""
    note = SignedNote.parse(made.stdout)
    key = parse_public_key(real.key)
    assert note.verified_by([key], verify_signature) == [key]
    assert [(Checkpoint.parse_body(note.text).tree_size,)] == real.rows("SELECT max(tree_size) FROM checkpoints")


def test_a_checkpoint_is_written_to_a_new_file_or_to_a_directory_that_gains_what_it_lacks(
    real: Audited, tmp_path: Path
) -> None:
    note = real.run("checkpoint").stdout
    whole, alone, directory = tmp_path / "whole", tmp_path / "alone", tmp_path / "directory"
    said = real.run("checkpoint", "-o", str(whole))
    assert said.stdout == ""
    assert f"{whole} holds the checkpoint of " in said.stderr
    real.run("checkpoint", "-o", str(alone), "--note-only")
    assert alone.read_text() == note
    ((exported,), leaves) = read_exported(whole)
    assert exported.note == note
    assert [leaf for _, leaf in leaves][-1][:2] == (real.failed, FAILED_AT)
    directory.mkdir()
    for _ in range(2):
        real.run("checkpoint", "--output", str(directory))
        assert sorted(each.suffix for each in directory.iterdir()) == [".checkpoint", ".leaves"]
    content = whole.read_bytes()
    assert "never overwritten" in real.refused("checkpoint", "-o", str(whole))
    assert whole.read_bytes() == content
    assert "cannot write" in real.refused("checkpoint", "-o", str(tmp_path / "absent" / "file"))
    for path in (whole, alone, directory):
        assert real.verify("--checkpoint", str(path))["exported_checkpoints"] == 1


# replay and verify, where nothing is wrong


def test_an_untouched_database_is_clean_while_its_server_runs(real: Audited) -> None:
    replayed, verified = real.report("replay"), real.verify()
    trades = {"challenges": 2, "trades": FAILED_AT, "events": 2 + 2, "archived": 0}
    assert {name: replayed[name] for name in trades} == trades == {name: verified[name] for name in trades}
    assert (replayed["leaves"], replayed["checkpoints"]) == (0, 0)
    ((leaves,),) = real.rows("SELECT count(*) FROM checkpoint_leaves")
    assert (verified["leaves"], verified["waiting"], verified["notes"]) == (leaves, 0, [])
    assert verified["signed_checkpoints"] == verified["checkpoints"] > 0


def test_for_people_the_report_is_a_few_lines(real: Audited) -> None:
    ended = real.run("verify", "--key", real.key)
    counted, tree, verdict = ended.stdout.splitlines()
    assert counted == "2 challenges, 288 trades and 4 events decided again"
    assert "of them with a good signature of a given key" in tree
    assert verdict == "nothing is wrong"
    assert real.run("replay").stdout.splitlines() == [counted, "nothing is wrong"]


def test_replay_can_be_of_some_challenges(real: Audited) -> None:
    report = real.report("replay", "--challenge", real.failed.upper(), "--challenge", other_of(real))
    assert (report["challenges"], report["trades"]) == (2, FAILED_AT)
    report = real.report("replay", "--challenge", other_of(real))
    assert (report["challenges"], report["trades"], report["events"]) == (1, 0, 1)


def test_keys_are_given_as_text_or_as_files_and_a_strangers_is_a_finding(real: Audited, tmp_path: Path) -> None:
    strangers = run("keygen", "-o", str(tmp_path / "stranger.pem")).stdout.strip()
    (tmp_path / "firm.pub").write_text(real.key + "\n")
    for given in (real.key, str(tmp_path / "firm.pub")):
        report = real.report("verify", "--key", given)
        assert report["signed_checkpoints"] == report["checkpoints"]
    both = real.report("verify", "--key", strangers, "--key", real.key)
    assert both["signed_checkpoints"] == both["checkpoints"]
    wrong = real.report("verify", "--key", str(tmp_path / "stranger.pem.pub"), code=FINDINGS)
    assert places(wrong) == {("CHECKPOINT", None, None)}
    assert wrong["signed_checkpoints"] == 0
    assert "no signature of a given key" in wrong["findings"][0]["message"]
    text = real.run("verify", "--key", strangers, code=FINDINGS).stdout
    assert text.splitlines()[-2:] == [f"CHECKPOINT: {wrong['findings'][0]['message']}", "findings: 1"]


def test_without_a_key_the_report_says_what_was_not_checked(real: Audited) -> None:
    report = real.report("verify")
    assert report["notes"] == ["signatures were not checked: no key was given"]
    assert report["signed_checkpoints"] == 0
    assert "note: signatures were not checked: no key was given" in real.run("verify").stdout.splitlines()


def test_the_embedded_postgresql_is_verified_by_its_own_key_while_it_is_served(
    embedded_dir: Path, start_server: Start
) -> None:
    server = start_server("--data-dir", str(embedded_dir), environment={SEAL_KEY_VARIABLE: ""})
    with connected(server.address) as stub:
        challenge_id = make_challenge(stub)
        batch(stub, submission(challenge_id, "t1", "-6000"))

    def verified() -> Any:
        return json.loads(run("verify", "--json", "--data-dir", str(embedded_dir)).stdout)

    eventually(lambda: verified()["waiting"] == 0)
    report = verified()
    assert report["signed_checkpoints"] == report["checkpoints"] > 0
    assert report["notes"] == []
    proof = embedded_dir.parent / "proof.json"
    said = run("prove", challenge_id, "-o", str(proof), "--data-dir", str(embedded_dir)).stderr
    assert f"{proof} proves: FAILED after 1 of 1 trades" in said
    keys = [parse_public_key(str(embedded_dir / "seal-key.pem.pub"))]
    assert check_proof(proof.read_bytes(), keys, verify_signature).history.state.status == "FAILED"
    assert server.stop() == 0


def test_an_auditor_needs_to_read_and_no_more(real: Audited, tmp_path: Path) -> None:
    name = f"auditor_{new_id().replace('-', '')}"
    with psycopg.connect(libpq(real.url), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        try:
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}".encode())
            auditor = Audited(real.url.set(username=name), real.key, real.failed)
            auditor.report("replay")
            auditor.verify()
            auditor.prove(tmp_path / "proof.json")
            auditor.run("checkpoint", "-o", str(tmp_path / "checkpoint"))
            connection.execute(f"REVOKE SELECT ON checkpoint_leaves, trades FROM {name}".encode())
            for command in (["replay"], ["verify"], ["prove", real.failed, "-o", str(tmp_path / "other.json")]):
                said = auditor.refused(*command)
                assert f"the database role {name} lacks privileges: SELECT on trades, SELECT on checkpoint_lea" in said
        finally:
            connection.execute(f"DROP OWNED BY {name}".encode())
            connection.execute(f"DROP ROLE {name}".encode())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudoterminals")
def test_progress_is_drawn_on_a_terminal_and_nowhere_else(real: Audited) -> None:
    import pty

    command = [sys.executable, "-m", "challenge_server", "verify", "--json", "--key", real.key]
    environment = clean_environment() | {"TERM": "xterm-256color", "COLUMNS": "100"}
    ours, theirs = pty.openpty()
    drawn = b""
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            [*command, "--database-url", url_text(real.url)], stdout=subprocess.PIPE, stderr=theirs, env=environment
        ) as process,
    ):
        os.close(theirs)
        # Once nobody holds the other end any more, reading fails.
        with contextlib.suppress(OSError):
            while chunk := terminal.read(4096):
                drawn += chunk
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert (process.returncode, report["clean"]) == (0, True)
    assert b"trades" in drawn
    assert b"288/288" in drawn
    assert b"\x1b[2K" in drawn, "what was drawn is to be wiped"
    assert real.run("verify", "--json").stderr == ""


# replay and verify, where somebody wrote what is not so


def test_a_trade_that_was_changed_is_named_by_both_and_everything_else_still_fits(own: Audited, tmp_path: Path) -> None:
    own.tamper(f"UPDATE trades SET realized_pnl = 6000 WHERE challenge_id = '{own.failed}' AND sequence = 2")
    replayed, verified = own.report("replay", code=FINDINGS), own.verify(code=FINDINGS)
    assert places(replayed) == places(verified)
    assert {where[1:] for where in places(verified)} == {(own.failed, 2)}
    assert {where[0] for where in places(verified)} >= {"DECISION", "CHAIN"}
    text = own.run("verify", code=FINDINGS).stdout.splitlines()
    assert any(line.startswith(f"DECISION: challenge {own.failed} sequence 2: ") for line in text)
    assert text[-1] == f"findings: {verified['finding_count']}"
    assert own.report("replay", "--challenge", own.failed, code=FINDINGS)["findings"] == replayed["findings"]
    own.report("replay", "--challenge", other_of(own))
    assert "run challenge-engine verify" in own.refused("prove", own.failed, "-o", str(tmp_path / "proof.json"))
    assert list(tmp_path.iterdir()) == []


def test_long_reports_are_cut_for_people_and_not_for_programs(own: Audited) -> None:
    other = other_of(own)
    own.tamper(f"UPDATE trades SET symbol = 'X' WHERE challenge_id = '{other}'")
    report = own.report("replay", code=FINDINGS)
    assert places(report) == {("CHAIN", other, sequence) for sequence in range(1, 61)}
    text = own.run("replay", code=FINDINGS).stdout.splitlines()
    assert sum(line.startswith("CHAIN: ") for line in text) == 50
    assert text[-2:] == ["… and 10 more; --json gives the first 10,000", "findings: 60"]


def test_an_end_that_was_cut_off_without_a_trace_is_found_by_what_was_exported(own: Audited, tmp_path: Path) -> None:
    """A superuser removes a challenge with its leaves and every checkpoint that held them: inside all fits again."""
    whole, alone, directory = tmp_path / "whole", tmp_path / "alone", tmp_path / "directory"
    directory.mkdir()
    own.run("checkpoint", "-o", str(whole))
    own.run("checkpoint", "-o", str(alone), "--note-only")
    own.run("checkpoint", "-o", str(directory))
    exported = [("--checkpoint", str(path)) for path in (whole, alone, directory)]
    own.verify(*(word for pair in exported for word in pair))
    lost = f"WHERE challenge_id = '{own.failed}'"
    ((sealed_before,),) = own.rows(f"SELECT min(leaf_index) FROM checkpoint_leaves {lost}")
    own.tamper(
        *(f"DELETE FROM {table} {lost}" for table in ("event_positions", "trades", "challenge_events", "challenges")),
        f"DELETE FROM checkpoint_leaves {lost}",
        f"DELETE FROM checkpoints WHERE tree_size > {sealed_before}",
    )
    inside = own.verify()
    assert (inside["challenges"], inside["leaves"]) == (1, sealed_before)
    for option, path in (exported[0], exported[2]):
        report = own.verify(option, path, code=FINDINGS)
        assert {("SEAL", own.failed, 2), ("CHECKPOINT", own.failed, 2), ("CHECKPOINT", None, None)} <= places(report)
        assert {where[1] for where in places(report)} == {own.failed, None}
        text = own.run("verify", option, path, code=FINDINGS).stdout
        assert f"SEAL: challenge {own.failed} sequence 2: exported as leaf" in text
    unnamed = own.verify(*exported[1], code=FINDINGS)
    assert places(unnamed) == {("CHECKPOINT", None, None)}
    assert "may not be named" in unnamed["notes"][0]


def test_an_exported_checkpoint_that_was_changed_or_is_none_cannot_be_used(own: Audited, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    own.run("checkpoint", "-o", str(path))
    content = path.read_text()
    for changed, said in (
        (content[:-10] + "\n", "a leaf must be"),
        (content + content.splitlines()[-1] + "\n", "stands where"),
    ):
        path.write_text(changed)
        assert said in own.refused("verify", "--key", own.key, "--checkpoint", str(path))
    path.write_text(content.replace(" 60 ", " 59 "))
    report = own.verify("--checkpoint", str(path), code=FINDINGS)
    assert any("the exported leaves are not those of its checkpoint" in each["message"] for each in report["findings"])
    path.write_text(content.replace("sealed_at 2", "sealed_at 1"))
    report = own.verify("--checkpoint", str(path), code=FINDINGS)
    assert places(report) == {("CHECKPOINT", None, None)}
    assert "signature" in report["findings"][0]["message"]
    path.write_text("hello")
    assert places(own.verify("--checkpoint", str(path), code=FINDINGS)) == {("CHECKPOINT", None, None)}
    path.write_bytes(b"\xff")
    assert "is no checkpoint" in own.refused("verify", "--checkpoint", str(path))
    assert "cannot read" in own.refused("verify", "--checkpoint", str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoints" in own.refused("verify", "--checkpoint", str(tmp_path / "empty"))


# prove


def test_a_failure_on_real_trades_is_proved_to_whoever_has_the_key(real: Audited, tmp_path: Path) -> None:
    proof = tmp_path / "proof.json"
    said = real.prove(proof)
    assert said == f"challenge-engine: {proof} proves: FAILED after 288 of 288 trades\n"
    arguments = ["verify-proof", str(proof), "--key", real.key]
    told = CliRunner().invoke(client_app, arguments)
    assert told.exit_code == 0, told.output
    assert "It is FAILED by MAX_DAILY_DRAWDOWN since trade 288 (fill-288)" in told.stdout
    assert f"to {FAILED_EQUITY} USD." in told.stdout
    assert "PROVED: its 288 trades were decided again by rules version 1" in told.stdout
    content = proof.read_bytes()
    place = len(content) // 2
    proof.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    told = CliRunner().invoke(client_app, arguments)
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.startswith("NOT PROVED: ")


def test_a_proof_takes_the_place_of_one_that_is_there_and_is_the_same_each_time(real: Audited, tmp_path: Path) -> None:
    proof = tmp_path / "proof.json"
    proof.write_text("an older one")
    real.prove(proof, real.failed.upper())
    content = proof.read_bytes()
    real.prove(proof)
    assert proof.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["proof.json"]
    pending = tmp_path / "pending.json"
    assert "proves: PENDING after 0 of 0 trades" in real.prove(pending, other_of(real))
    assert check_proof(pending.read_bytes(), [parse_public_key(real.key)], verify_signature).history.decisions == ()


def test_what_cannot_be_proved_is_told(real: Audited, tmp_path: Path) -> None:
    unknown = new_id()
    assert f"there is no challenge {unknown}" in real.refused("prove", unknown, "-o", str(tmp_path / "proof.json"))
    said = run("prove", real.failed, "-o", str(tmp_path / "absent" / "p"), "--database-url", url_text(real.url), code=1)
    assert "cannot write" in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_seals_cannot_be_proved_and_what_was_sealed_before_still_can(
    database_url: URL, start_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("challenge_server.audit_commands.prove", partial(prove, patience_s=0.5))
    audited = Audited(database_url, environment_key())
    arguments = ("--log-level", "error", "--database-url", url_text(database_url))
    server = start_server(*arguments)
    with connected(server.address) as stub:
        audited.failed = make_challenge(stub)
        batch(stub, submission(audited.failed, "t1", "1", after(1)))
        audited.sealed()
    assert server.stop() == 0
    server = start_server("--no-seal", *arguments, environment={SEAL_KEY_VARIABLE: ""})
    with connected(server.address) as stub:
        unsealed = make_challenge(stub)
        batch(stub, submission(audited.failed, "t2", "-6000", after(2)))
    proof = tmp_path / "proof.json"
    assert f"challenge {unsealed} has not been sealed" in audited.refused("prove", unsealed, "-o", str(proof))
    assert not proof.exists()
    told, rest = audited.prove(proof).splitlines()
    assert told.endswith("proves: ACTIVE after 1 of 2 trades")
    assert rest == "challenge-engine: the last 1 trades have not been sealed yet, and are not in it"
    assert len(check_proof(proof.read_bytes(), [parse_public_key(audited.key)], verify_signature).history.inputs) == 1
    report = audited.verify()
    assert report["waiting"] == 2


# Exit codes


@pytest.mark.parametrize(
    ("command", "without_schema"),
    [
        (["replay"], "revision none"),
        (["verify"], "revision none"),
        (["prove", new_id(), "-o", "proof"], "revision none"),
        (["checkpoint"], "database"),
    ],
)
def test_a_database_that_cannot_be_used_ends_with_1(
    command: list[str], without_schema: str, postgres: EmbeddedPostgres
) -> None:
    assert "the database cannot be used" in refused(*command, "--database-url", NOWHERE)
    assert without_schema in refused(*command, "--database-url", url_text(normalise_url(postgres.url)))
    assert "not both" in refused(*command, "--database-url", NOWHERE, "--data-dir", "/x")


def test_a_database_without_a_seal_is_verified_and_has_no_checkpoint(database_url: URL) -> None:
    audited = Audited(database_url, environment_key())
    report = audited.verify()
    assert (report["challenges"], report["leaves"]) == (0, 0)
    assert "nothing has been sealed" in report["notes"][0]
    assert audited.run("verify").stdout.splitlines()[-1] == "nothing is wrong"
    assert "nothing has been sealed" in audited.refused("checkpoint")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("absent.pub", "cannot read the key absent.pub"),
        ("challenge-engine+00000000+AQ==", "is no public key"),
        pytest.param(__file__, "is no public key", id="a file of another kind"),
    ],
)
def test_a_key_that_is_none_ends_with_1(key: str, said: str) -> None:
    assert said in refused("verify", "--key", key, "--database-url", NOWHERE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "--challenge", "7"], "must be a UUID"),
        (["prove", "7", "-o", "proof"], "must be a UUID"),
        (["prove", new_id()], "--output"),
        (["prove", "-o", "proof"], "CHALLENGE_ID"),
        (["verify", "--checkpoint"], "--checkpoint"),
        (["verify", "--challenge", new_id()], "--challenge"),
        (["checkpoint", "extra"], "extra"),
        (["keygen", "--force"], "--force"),
    ],
)
def test_wrong_usage_ends_with_2_before_any_database_is_asked(arguments: list[str], said: str) -> None:
    command, *rest = arguments
    database = [] if command == "keygen" else ["--database-url", NOWHERE]
    ended = run(command, *database, *rest, code=USAGE)
    assert said in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("command", ["replay", "verify"])
def test_the_help_tells_the_exit_codes(command: str) -> None:
    assert "Exit codes: 0 nothing is wrong; 1 the database, a key" in run(command, "--help").stdout


# Kills


def in_mid_load(audited: Audited, senders: list[Sender]) -> bool:
    """Whether every sender has sent for a while, and trades of every one have been sealed."""
    sealed = audited.rows("SELECT DISTINCT challenge_id::text FROM checkpoint_leaves WHERE sequence > 0")
    return all(len(each.acknowledged) >= 50 and (each.challenge_id,) in sealed for each in senders)


def test_after_kill_9_in_mid_load_everything_is_clean_before_and_after_the_next_start(
    database_url: URL, start_server: Start, tmp_path: Path
) -> None:
    """Also by the checkpoints that were exported in between, and for audits in the middle of the load."""
    audited = Audited(database_url, environment_key())
    exported = tmp_path / "checkpoints"
    exported.mkdir()
    arguments = ("--log-level", "error", "--checkpoint-dir", str(exported), "--database-url", url_text(database_url))
    limits = pb.Limits(max_daily_drawdown_pct="99", max_total_drawdown_pct="99", profit_target_pct="10000")
    everyone: list[Sender] = []
    for _ in range(2):
        server = start_server(*arguments)
        with connected(server.address) as stub:
            senders = [Sender(make_challenge(stub, limits=limits), batches=number == 0) for number in range(3)]
        everyone += senders
        with concurrent.futures.ThreadPoolExecutor(len(senders)) as pool:
            running = [pool.submit(sender.run, server.address) for sender in senders]
            try:
                eventually(partial(in_mid_load, audited, senders))
                audited.run("checkpoint", "-o", str(exported))
                assert audited.verify("--checkpoint", str(exported))["leaves"] > 0
            finally:
                server.kill()
            for future in running:
                future.result(PATIENCE_S)
        eventually(audited.is_alone)
        report = audited.verify("--checkpoint", str(exported))
        assert report["challenges"] == len(everyone)
        assert report["trades"] >= sum(len(sender.acknowledged) for sender in everyone)
        assert audited.run("rebuild").stdout == f"{len(everyone)} challenges rebuilt; 0 rows differ\n"
    server = start_server(*arguments)
    audited.sealed()
    for sender in everyone:
        audited.prove(tmp_path / "proof.json", sender.challenge_id)
        proved = check_proof((tmp_path / "proof.json").read_bytes(), [parse_public_key(audited.key)], verify_signature)
        assert proved.history.state.last_sequence >= len(sender.acknowledged)
    assert server.stop() == 0
    report = audited.verify("--checkpoint", str(exported))
    assert (report["waiting"], report["notes"]) == (0, [])
    assert report["exported_checkpoints"] >= 3
