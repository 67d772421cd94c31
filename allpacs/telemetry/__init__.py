"""Logs, the recent log, metrics and traces. No patient data in any of them."""
