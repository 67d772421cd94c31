"""Model engines: one file an engine, imported lazily."""
