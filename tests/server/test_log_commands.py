"""`rebuild`, `export`, `import` and `archive` as operators meet them, on a database that was served."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import URL

from challenge_client import ChallengeClient
from challenge_client.errors import ChallengeArchivedError
from challenge_engine.embedded import EmbeddedPostgres
from challenge_engine.keys import load_key
from tests.conftest import ServerProcess, _fresh_database
from tests.server.calls import clean_environment, libpq, url_text
from tests.server.test_audit_commands import FINDINGS, USAGE, Audited, refused, run

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def served(database_url: URL, tmp_path: Path) -> Audited:
    """A challenge that is FUNDED and one that is ACTIVE, sealed; the server has stopped."""
    path = tmp_path / "key.pem"
    run("keygen", "-o", str(path))
    server = ServerProcess(
        "--listen", "127.0.0.1:0", "--database-url", url_text(database_url), "--seal-key", str(path),
        "--log-level", "error", environment=clean_environment(),
    )  # fmt: skip
    with ChallengeClient(server.wait_ready()) as client:
        funded, active = (client.create_challenge(initial_balance=100).challenge_id for _ in range(2))
        for number, (challenge_id, pnl) in enumerate(((funded, 1), (active, 1), (funded, 20)), start=1):
            client.submit_trade(
                challenge_id, trade_id=f"t{number}", realized_pnl=pnl, executed_at=NOON + timedelta(seconds=number)
            )
    assert server.stop() == 0
    server.close()
    return Audited(database_url, str(load_key(path).public), failed=funded)


def test_rebuild_compares_and_puts_right_once_no_server_runs(served: Audited):
    assert served.run("rebuild").stdout == "2 challenges rebuilt; 0 rows differ\n"
    served.tamper("UPDATE challenges SET labels = '{\"a\":\"b\"}' WHERE status = 'ACTIVE'")
    ended = served.run("rebuild", code=FINDINGS)
    assert ": labels\n" in ended.stdout
    assert "1 rows differ" in ended.stdout
    assert "what differed has been put right" in served.run("rebuild", "--swap").stdout
    assert served.run("rebuild").stdout.endswith("0 rows differ\n")
    with psycopg.connect(libpq(served.url), application_name="challenge-engine"):
        served.tamper("UPDATE challenges SET labels = '{\"a\":\"b\"}' WHERE status = 'ACTIVE'")
        assert "stop every server" in served.refused("rebuild", "--swap")


def test_what_is_exported_is_imported_elsewhere_and_verifies_there(
    served: Audited, postgres: EmbeddedPostgres, tmp_path: Path
):
    directory = str(tmp_path / "export")
    assert "rows in" in served.run("export", directory).stdout
    assert "complete export already" in served.refused("export", directory)
    with _fresh_database(postgres) as url:
        other = Audited(url, served.key)
        assert "run challenge-engine verify" in other.run("import", directory).stdout
        assert other.verify()["trades"] == 3
        assert "empty database" in served.refused("import", directory)
        assert "no manifest" in refused("import", str(tmp_path), "--database-url", url_text(url))


def test_archived_trades_leave_the_database_and_their_verdict_is_still_proved(served: Audited, tmp_path: Path):
    directory = str(tmp_path / "archives")
    key = ("--seal-key", str(tmp_path / "key.pem"))
    assert served.run("archive", "--to", directory, "--older-than", "1d", *key).stdout.startswith("0 trades of 0")
    assert "give the key by --seal-key" in served.refused("archive", "--to", directory, "--older-than", "0h")
    before = tmp_path / "before.json"
    served.prove(before)
    archived = served.run("archive", "--to", directory, "--older-than", "0h", *key)
    assert archived.stdout == "2 trades of 1 challenges in 1 archives\n"
    assert "give --archive DIR" in served.refused("prove", served.failed, "-o", str(tmp_path / "x.json"))
    after = tmp_path / "after.json"
    served.run("prove", served.failed, "-o", str(after), "--archive", directory)
    assert after.read_bytes() == before.read_bytes()
    assert served.verify("--archive", directory)["archived_trades"] == 2
    statement = tmp_path / "statement.csv"
    statement.write_text(f"challenge_id,trade_id,executed_at,realized_pnl\n{served.failed},t1,2025-01-02T12:00:01Z,1\n")
    assert "have been archived" in served.refused("reconcile", "--csv", str(statement))
    server = ServerProcess(
        "--listen", "127.0.0.1:0", "--database-url", url_text(served.url), *key,
        "--log-level", "error", environment=clean_environment(),
    )  # fmt: skip
    with ChallengeClient(server.wait_ready()) as client:
        with pytest.raises(ChallengeArchivedError):
            list(client.list_trades(served.failed))
        assert client.get_challenge(served.failed).status == "FUNDED"
    server.stop()
    server.close()


@pytest.mark.parametrize("command", ["verify", "replay", "rebuild", "checkpoint", "export x", "import x"])
def test_a_mistyped_directory_does_not_become_a_database(command: str, tmp_path: Path):
    said = refused(*command.split(), "--data-dir", str(tmp_path / "typo"))
    assert "there is no database in" in said or "holds no export" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("age", ["5", "-1d", "1w", "1.5d", "100000d", "d"])
def test_an_age_that_is_none_is_wrong_usage(age: str, tmp_path: Path):
    ended = run("archive", "--to", str(tmp_path), "--older-than", age, code=USAGE)
    assert "such as 365d or 12h" in ended.stderr
