"""Run migrations on the connection that `allpacs.store.database.upgrade` passes in, within its transaction."""

from __future__ import annotations

from alembic import context

from allpacs.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
