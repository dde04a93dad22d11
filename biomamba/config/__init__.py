"""Compose, check and build the configuration of a run; nothing here imports torch."""
