"""The checkpoints that are shipped, each beside the script that made it."""
