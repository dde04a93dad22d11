"""How time and memory of models grow with the length of what they read."""
