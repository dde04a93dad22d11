"""Duplicates, near-duplicates and benchmark texts: what is left out, what shares a split."""
