"""Helpers of the tests: the stub hospital, senders, servers, sample data."""
