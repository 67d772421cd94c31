"""Findings to bytes: one file a format."""
