"""Bytes to somewhere: one file a destination."""
