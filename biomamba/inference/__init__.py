"""From prompts to continued texts."""
