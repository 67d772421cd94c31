"""One file a subject; each has `rows(scale)`, which yields its rows as they are measured."""
