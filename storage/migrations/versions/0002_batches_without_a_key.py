"""No foreign key from a job to its batch.

PostgreSQL checked and locked the batch anew for every job that was inserted, which took longer than
the insert. The batch is made by the transaction that inserts its first job, and none is ever deleted.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = "fk_jobs_batch_id"
# SQLite can only copy the table; without the word it would hand out numbers of deleted rows again.
KEPT = {"sqlite_autoincrement": True}


def upgrade() -> None:
    with op.batch_alter_table("jobs", table_kwargs=KEPT) as jobs:
        jobs.drop_constraint(NAME, type_="foreignkey")


def downgrade() -> None:
    with op.batch_alter_table("jobs", table_kwargs=KEPT) as jobs:
        jobs.create_foreign_key(NAME, "batches", ["batch_id"], ["id"])
