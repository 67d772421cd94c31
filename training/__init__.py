"""Reproduces the paper and trains the bundle that allpacs ships."""
