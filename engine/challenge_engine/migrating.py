"""Brings the schema of a database to a revision, with Alembic. Loaded only by those who migrate."""

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.engine import URL

from challenge_engine.database import (
    CONNECT_TIMEOUT_S,
    NEWEST_REVISION,
    refuse_newer,
    require_version,
    revision_of,
)


def migrate(url: URL, revision: str = "head") -> str:
    """Bring the schema to a revision, the newest unless told otherwise; returns the newest.

    Takes an advisory lock, so that two runs queue up.
    """
    engine = create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    config = _configuration()
    try:
        with engine.begin() as connection:
            require_version(connection.dialect.server_version_info)
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('challenge-engine migrate'))")
            config.attributes["connection"] = connection
            refuse_newer(revision_of(connection))
            command.upgrade(config, revision)
    finally:
        engine.dispose()
    return NEWEST_REVISION


def known_revisions() -> list[str]:
    """The revisions of the migrations, oldest first."""
    scripts = ScriptDirectory.from_config(_configuration()).walk_revisions()
    return [script.revision for script in scripts][::-1]


def _configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("challenge_engine") / "migrations"))
    return config
