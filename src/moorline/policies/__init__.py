"""Decisions without I/O: retry, breaker, rate, bulkhead, deadline, and the Policy that composes them."""
