"""Product analytics: one vocabulary for every provider."""
