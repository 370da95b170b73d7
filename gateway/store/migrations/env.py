"""Alembic's entry: migrations run on the connection that gateway.store.database hands over."""

from alembic import context

from gateway.store.people import users

context.configure(
    connection=context.config.attributes["connection"], target_metadata=users.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
