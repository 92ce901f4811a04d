"""The tables as SQLAlchemy sees them. The migrations make them; a test holds the two together."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()


def _money(name: str) -> Column[object]:
    return Column(name, Numeric(24, 8), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


challenges = Table(
    "challenges",
    metadata,
    Column("challenge_id", Uuid(as_uuid=False), primary_key=True),
    Column("status", Text, nullable=False, server_default="PENDING"),
    Column("status_reason", Text),
    _money("initial_balance"),
    Column("max_daily_drawdown_pct", Numeric(6, 4), nullable=False),
    Column("max_total_drawdown_pct", Numeric(6, 4), nullable=False),
    Column("profit_target_pct", Numeric(9, 4), nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("rules_version", Integer, nullable=False),
    _money("equity"),
    _money("peak_equity"),
    _money("daily_start_equity"),
    Column("trading_day", Date),
    Column("last_sequence", BigInteger, nullable=False, server_default=text("0")),
    Column("version", BigInteger, Computed("last_sequence + 1", persisted=True), nullable=False),
    Column("event_count", BigInteger, nullable=False, server_default=text("1")),
    _moment("created_at"),
    _moment("activated_at", nullable=True),
    _moment("closed_at", nullable=True),
    _moment("last_executed_at", nullable=True),
    Column("chain_head", LargeBinary, nullable=False),
    Column("archive_id", Uuid(as_uuid=False), ForeignKey("archives.archive_id")),
    Index("challenges_by_archive", "archive_id", postgresql_where=text("archive_id IS NOT NULL")),
    Index("challenges_by_creation", "created_at", "challenge_id"),
    Index("challenges_by_status", "status", "created_at", "challenge_id"),
    Index("challenges_by_closing", "closed_at", postgresql_where=text("closed_at IS NOT NULL")),
    Index("challenges_by_label", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
)

trades = Table(
    "trades",
    metadata,
    Column("challenge_id", Uuid(as_uuid=False), ForeignKey("challenges.challenge_id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("trade_id", Text, nullable=False),
    _money("realized_pnl"),
    _moment("executed_at"),
    Column("symbol", Text, nullable=False),
    _money("initial_balance"),
    _money("equity"),
    _money("peak_equity"),
    _money("daily_start_equity"),
    Column("previous_status", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    _moment("recorded_at"),
    Column("chain_hash", LargeBinary, nullable=False),
    UniqueConstraint("challenge_id", "trade_id", name="trades_trade_id_unique"),
)

challenge_events = Table(
    "challenge_events",
    metadata,
    Column("challenge_id", Uuid(as_uuid=False), ForeignKey("challenges.challenge_id"), primary_key=True),
    Column("challenge_sequence", BigInteger, primary_key=True),
    Column("event_type", Text, nullable=False),
    Column("old_status", Text),
    Column("new_status", Text, nullable=False),
    Column("reason", Text),
    Column("trade_id", Text),
    Column("trade_sequence", BigInteger),
    _money("equity"),
    Column("evaluations", JSONB, nullable=False),
    Column("terms", JSONB),
    _moment("occurred_at"),
    _moment("recorded_at"),
    Column("chain_hash", LargeBinary),
)

event_positions = Table(
    "event_positions",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("challenge_id", Uuid(as_uuid=False), nullable=False),
    Column("challenge_sequence", BigInteger, nullable=False),
    Column("new_status", Text, nullable=False),
    UniqueConstraint("challenge_id", "challenge_sequence", name="event_positions_event_unique"),
    Index("event_positions_by_status", "new_status", "position"),
    ForeignKeyConstraint(
        ["challenge_id", "challenge_sequence"],
        ["challenge_events.challenge_id", "challenge_events.challenge_sequence"],
    ),
)

event_outbox = Table(
    "event_outbox",
    metadata,
    Column("outbox_id", BigInteger, Identity(always=True), primary_key=True),
    Column("challenge_id", Uuid(as_uuid=False), nullable=False),
    Column("challenge_sequence", BigInteger, nullable=False),
)

event_log = Table(
    "event_log",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("log_id", Uuid(as_uuid=False), nullable=False, server_default=text("gen_random_uuid()")),
    Column("origin", Text),
)

event_relays = Table(
    "event_relays",
    metadata,
    Column("sink", Text, primary_key=True),
    Column("log_id", Uuid(as_uuid=False), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

seal_outbox = Table(
    "seal_outbox",
    metadata,
    Column("outbox_id", BigInteger, Identity(always=True), primary_key=True),
    Column("challenge_ids", ARRAY(Uuid(as_uuid=False)), nullable=False),
)

checkpoint_leaves = Table(
    "checkpoint_leaves",
    metadata,
    Column("leaf_index", BigInteger, primary_key=True, autoincrement=False),
    Column("challenge_id", Uuid(as_uuid=False), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("chain_head", LargeBinary, nullable=False),
    UniqueConstraint("challenge_id", "sequence", name="checkpoint_leaves_once"),
)

checkpoint_tiles = Table(
    "checkpoint_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("tile_index", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("tree_size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    _moment("sealed_at"),
)

archives = Table(
    "archives",
    metadata,
    Column("archive_id", Uuid(as_uuid=False), primary_key=True),
    Column("file_name", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("challenge_count", BigInteger, nullable=False),
    Column("trade_count", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    _moment("sealed_at"),
)

imported_chunks = Table(
    "imported_chunks",
    metadata,
    Column("chunk", Text, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("imported_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
