"""Layouts of published checkpoints: their config.json, names of tensors and files of weights."""
