"""Readers of evaluation sets: the ids and texts that training data must not hold."""
