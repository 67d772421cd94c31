"""What allpacs is compared with where nothing ready exists: written as plainly as one would, and not slowed down."""
