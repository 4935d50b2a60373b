"""Alembic's entry: runs the scripts on the connection, and in the transaction, of the caller."""

from alembic import context

from soundmill.storage.rows import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,  # for the names of constraints
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
