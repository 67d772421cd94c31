"""Every module of this package is a way of finding cells and declares a `CellFinder` as ``FINDER``."""
