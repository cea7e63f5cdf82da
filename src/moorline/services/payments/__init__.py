"""Payments: take, hold, capture, cancel and refund, in one vocabulary (``protocol``) for every provider."""
