"""Downstream tasks: their items, prompts and measures."""
