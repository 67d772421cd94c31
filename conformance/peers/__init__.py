"""Third parties: how each is installed, started and asked."""
