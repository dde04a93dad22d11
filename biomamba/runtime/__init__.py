"""What every layer may use: errors, ranks, seeds, provenance. Knows nothing of the project."""
