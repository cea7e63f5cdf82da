"""Credentials: values that are never printed, and the places they are loaded from."""

from __future__ import annotations

from moorline.secrets.secret import Secret

__all__ = ["Secret"]
