"""Sign-in and user management by others."""
