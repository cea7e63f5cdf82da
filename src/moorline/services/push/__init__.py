"""Text messages: one vocabulary for every provider."""
