"""Helpers that the conformance suite and the tests share."""
