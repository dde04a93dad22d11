"""What a machine has, and whether runs on it can be trusted."""
