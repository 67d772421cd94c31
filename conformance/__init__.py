"""What allpacs claims to conform to, its tables made from the code."""
