"""A quick look at a text: may there be anything in it that a rule masks?

Python's ``re`` tries an alternation branch after branch at every character, at a few megabytes a second for as many
rules as there are here, and looking for each of fifty words in turn reads the text fifty times. The regular expressions
of ``pydantic_core``, which pydantic brings anyway, are Rust's: one automaton for all rules, in linear time, which reads
several hundred megabytes a second. It only says *whether*; the rules themselves say where, and are asked only then. So
each gate must let through all that its rules may change, and may let through more.
"""

from __future__ import annotations

from collections.abc import Callable

from moorline.texts import is_utf8

__all__ = ["Gate"]


class Gate:
    """Says whether *pattern*, in Rust's syntax, may be found in a text; True as well wherever that cannot be told."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._found: Callable[[str], bool] | None = None

    def __call__(self, text: str) -> bool:
        """Whether the rules are to be asked about *text*."""
        found = self._found or self._made()
        if found(text):
            return True
        # What has no form in UTF-8 was not read at all.
        return not text.isascii() and not is_utf8(text)

    def reader(self, text: str) -> Callable[[str], bool]:
        """What says the same of parts of *text*, the quickest that there is."""
        return self if not text.isascii() and not is_utf8(text) else self._found or self._made()

    def _made(self) -> Callable[[str], bool]:
        try:
            from pydantic_core import SchemaValidator, core_schema  # heavy; not at import
        except ImportError:  # the interpreter is being shut down: the rules do without a gate
            return lambda _text: True
        made = SchemaValidator(core_schema.str_schema(pattern=self._pattern, regex_engine="rust-regex"))
        self._found = made.isinstance_python
        return self._found
