"""Calls: requests to services as values, and the pipeline that sends them."""
