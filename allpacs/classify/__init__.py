"""Cells to probabilities: bundle, preprocessing, batching, aggregation; engines in `engines/`."""
