"""Objects in buckets: one vocabulary for every provider."""
