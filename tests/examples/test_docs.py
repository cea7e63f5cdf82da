"""The pages of docs/: their Python runs, their commands exist, their table of defaults is that of the code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tests.examples.conftest import ROOT, Sandbox

from moorline import Breaker, Moorline, Policy, Retry
from moorline.cli.root import cli
from moorline.jobs.registry import Jobs
from moorline.settings import Settings

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=_name)
def test_the_python_of_a_page_runs(
    page: Path, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks, in their order and in one namespace, against the sandbox; those with await on an event loop."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-")  # the reader's own
    space: dict[str, Any] = {"__name__": "page"}
    for number, source in enumerate(_blocks(page, "python"), 1):
        place, flags = f"{_name(page)}, block {number}", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, place, "exec", flags=flags, dont_inherit=True)  # of this file's own __future__
        result = eval(code, space)
        if inspect.iscoroutine(result):
            asyncio.run(result)


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "sh")], ids=_name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    """Each ``moorline …`` line names a command and options that are there."""
    for line in "".join(_blocks(page, "sh")).splitlines():
        words = shlex.split(line)
        while "moorline" in words:
            words = words[words.index("moorline") + 1 :]
            command, rest = _command(words)
            with command.make_context("moorline", rest):
                pass


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words that are its own."""
    found: Any = typer.main.get_command(cli)
    rest = list(words)
    while hasattr(found, "commands"):
        assert rest
        assert rest[0] in found.commands, rest[0]
        found = found.commands[rest.pop(0)]
    return found, rest


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """No page points at a file of the project that is not there."""
    for path in re.findall(r"`([\w./-]+\.py)`", page.read_text(encoding="utf-8")):
        places = [ROOT / path, ROOT / "src" / "moorline" / path]
        own = path in {"pay.py", "shop.py", "protocol.py"}  # the reader's, or one for each category
        assert own or any(place.exists() for place in places), path


def _settings(model: Any, above: str) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        if hasattr(type(field.default), "model_fields"):
            yield from _settings(type(field.default), f"{above}{name}.")
        else:
            yield above + name, field.default


def _defaults() -> Iterator[tuple[str, object]]:
    for kind in (Policy, Retry, Breaker):
        assert is_dataclass(kind)
        yield from ((f"{kind.__name__}.{field.name}", field.default) for field in fields(kind))
    yield from _settings(Settings, "")
    for part in ("retries", "queue", "priority", "timeout"):
        yield f"app.job({part})", inspect.signature(Jobs.function).parameters[part].default
    yield "app.on(retries)", inspect.signature(Moorline.on).parameters["retries"].default
    yield "sandbox --port", next(one.default for one in _command(["sandbox"])[0].params if one.name == "port")


def test_the_table_of_defaults_is_that_of_the_code() -> None:
    """Every field of Policy, Retry, Breaker and the settings is there with its value, and a reason."""
    text = (DOCS / "reference" / "defaults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| `(.+?)` \| (.+) \|$", text, re.MULTILINE)
    known = {"Retry": Retry, "Breaker": Breaker}
    told = {name: eval(value, known) for name, value, _ in rows}
    assert told == dict(_defaults())
    assert all(len(reason) > 5 for *_, reason in rows)
