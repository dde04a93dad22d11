"""What a run will need, before it is started, and what it did need."""
