"""Stand-ins for hospital systems and synthetic cells, so that allpacs can be tried without a hospital."""
