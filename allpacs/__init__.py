"""allpacs: classify white cells of microscopy studies routed by a PACS. Research use only."""

__version__ = "0.1.0"
