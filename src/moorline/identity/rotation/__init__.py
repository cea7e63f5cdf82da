"""The rotation of credentials in an application: what was decided is kept in its database, and all processes follow."""

from __future__ import annotations

from moorline.identity.rotation.advice import KeyStatus, KeyVersion
from moorline.identity.rotation.keys import Keys

__all__ = ["KeyStatus", "KeyVersion", "Keys"]
