"""Mamba2: blocks, scan backends, loss, checkpoints, generation."""
