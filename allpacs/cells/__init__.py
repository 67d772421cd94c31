"""RGB frame to cells: one file a way of finding them."""
