"""E-mail: one message type and one result (``protocol``) for every provider."""
