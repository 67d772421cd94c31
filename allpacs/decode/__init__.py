"""Part 10 files and pictures to RGB frames."""
