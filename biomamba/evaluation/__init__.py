"""Checkpoints and tasks to result records with intervals."""
