"""Bytes to somewhere: what a configuration can name is in `destinations/`, protocols are beside it."""
