"""Chains of programs: steps that build upon each other, run one after the other or side by side."""
