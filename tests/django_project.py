"""Django's settings, which a process has once: the tests of both rooms with a part for Django share them."""

from __future__ import annotations

import django
from django.conf import settings

__all__ = ["URLS", "configure"]

URLS = "moorline_test_urls"


def configure() -> None:
    """Set Django up, once; ``URLS`` is the module of the addresses, which a test makes."""
    if settings.configured:
        return
    settings.configure(
        ROOT_URLCONF=URLS,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="not one",
        DATABASES={},
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    )
    django.setup()
