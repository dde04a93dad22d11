"""From raw documents to the exact stream of training rows."""
