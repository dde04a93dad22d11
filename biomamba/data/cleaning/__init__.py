"""Duplicates, near-duplicates and benchmark texts: what to leave out, and which split a text is in."""
