"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME: sa.Double[float] = sa.Double()
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

PARTIAL = {
    "unpublished": "state = 'available' AND published_at IS NULL",
    "published": "state = 'available' AND published_at IS NOT NULL",
    "due": "state IN ('scheduled', 'retryable') AND pending_parents = 0",
    "waiting_for_parents": "state = 'scheduled' AND pending_parents > 0",
    "leased": "state = 'executing'",
    "deadline": "deadline_at IS NOT NULL AND finished_at IS NULL",
    "discarded": "state = 'discarded'",
}


def upgrade() -> None:
    _create_batches()
    _create_jobs()
    _index_jobs()
    _create_families()
    _create_files()
    _create_processes()


def downgrade() -> None:
    for table in (
        "leader",
        "workers",
        "queues",
        "artifacts",
        "blobs",
        "job_parents",
        "attempts",
        "jobs",
        "batches",
    ):
        op.drop_table(table)


def _create_batches() -> None:
    states = ("scheduled", "available", "executing", "retryable", "completed", "cancelled", "discarded")
    op.create_table(
        "batches",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(190), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False, index=True),
        *(sa.Column(state, sa.Integer(), nullable=False) for state in states),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("batch_id", sa.String(255), nullable=False),
        sa.Column("custom_id", sa.Text()),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("args_version", sa.Integer(), nullable=False),
        sa.Column("args_digest", sa.String(64), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("priority", "attempt", "failures", "crashes", "max_failures")
        ),
        sa.Column("suspect", sa.Boolean(), nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("pending_parents", sa.Integer(), nullable=False),
        sa.Column("submitted_at", TIME, nullable=False),
        *(
            sa.Column(f"{name}_at", TIME)
            for name in ("scheduled", "available", "published", "started", "finished", "deadline")
        ),
        sa.Column("lease_until", TIME),
        sa.Column("cancel_requested_at", TIME),
        sa.Column("worker", sa.String(128)),
        sa.Column("card", sa.String(32)),
        sa.Column("progress", TIME),
        sa.Column("result", sa.Text()),
        sa.Column("metrics", sa.Text()),
        sa.Column("model_revision", sa.String(64)),
        sa.Column("error_code", sa.String(40)),
        sa.Column("error", sa.Text()),
        sa.Column("idempotency_key", sa.String(255)),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_jobs_batch_id"),
        sqlite_autoincrement=True,
    )


def _index_jobs() -> None:
    _index("unpublished", "model", "priority", "batch_id", "seq")
    _index("published", "model", "published_at")
    _index("due", "available_at")
    _index("waiting_for_parents", "seq")
    _index("leased", "lease_until")
    _index("deadline", "deadline_at")
    _index("discarded", "seq")
    op.create_index("ix_jobs_batch", "jobs", ["batch_id", "seq"])
    keyed = sa.text("idempotency_key IS NOT NULL")
    op.create_index(
        "uq_jobs_idempotency",
        "jobs",
        ["tenant", "idempotency_key"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )


def _index(name: str, *columns: str) -> None:
    where = sa.text(PARTIAL[name])
    op.create_index(f"ix_jobs_{name}", "jobs", columns, sqlite_where=where, postgresql_where=where)


def _create_families() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(26), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("worker", sa.String(128)),
        sa.Column("card", sa.String(32)),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("error_code", sa.String(40)),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME, nullable=False),
    )
    op.create_table(
        "job_parents",
        sa.Column("child", sa.String(26), primary_key=True),
        sa.Column("parent", sa.String(26), primary_key=True, index=True),
    )


def _create_files() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", TIME, nullable=False, index=True),
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(26), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="fk_artifacts_sha256"),
    )


def _create_processes() -> None:
    op.create_table(
        "queues",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("incarnation", sa.String(128), nullable=False),
        sa.Column("host", sa.String(96), nullable=False),
        sa.Column("card", sa.String(32), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "leader",
        sa.Column("role", sa.String(32), primary_key=True),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
    )
