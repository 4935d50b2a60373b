"""What pruning leaves behind, how long a batch may not be pruned, and how often a job's worker was killed.

Columns with constant defaults only: neither database rewrites a row, and workers of the version before
can go on until they are replaced.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kills", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("pruned_at", sa.Double()))
    op.add_column("batches", sa.Column("held_until", sa.Double()))


def downgrade() -> None:
    # SQLite drops one column after the other, without a copy of the table.
    op.drop_column("batches", "held_until")
    op.drop_column("jobs", "pruned_at")
    op.drop_column("jobs", "kills")
