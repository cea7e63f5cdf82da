"""Holds requests and answers against the vendors' published contracts, which are read from beside the repository.

The contracts are OpenAPI 3.0 and 3.1 files. Their ``nullable`` (which some 3.1 files use too) is turned into JSON Schema's
null, then jsonschema judges. Stripe's bracketed form bodies are decoded here, with code of our tests' own, multipart ones
by Werkzeug, and the texts are turned into the types that the schema names before they are judged.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, Preamble

_ROOT = "urn:contract"
_FORMATS = jsonschema.FormatChecker(["date-time", "email"])


class Contract:
    """One vendor's description of its API."""

    def __init__(self, folder: Path, name: str) -> None:
        self.document: dict[str, Any] = _nullable(json.loads((folder / f"{name}.json").read_text()))
        resource = Resource.from_contents(self.document, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(_ROOT, resource)

    def problems(self, pointer: str, value: Any) -> list[str]:
        """What is wrong with a value by the schema at that JSON pointer, one line each."""
        validator = jsonschema.Draft202012Validator(
            {"$ref": f"{_ROOT}#{pointer}"}, registry=self._registry, format_checker=_FORMATS
        )
        return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]

    def component(self, name: str) -> str:
        """The pointer of a named schema."""
        return f"/components/schemas/{name}"

    def request_problems(self, method: str, path: str, body: bytes, content_type: str) -> list[str]:
        """What is wrong with a request's body."""
        kind = content_type.partition(";")[0].strip()
        pointer, operation = self._operation(method, path)
        described = self._resolved(f"{pointer}/requestBody", operation.get("requestBody"))
        if described is None:
            return [] if not body else [f"{method} {path} takes no body"]
        pointer, node = described
        if kind not in node["content"]:
            return [f"content type {kind!r} is not one of {', '.join(node['content'])}"]
        schema = f"{pointer}/content/{_escaped(kind)}/schema"
        if kind == "application/x-www-form-urlencoded":
            return self.problems(schema, self._coerced(decoded_form(body.decode()), node["content"][kind]["schema"]))
        if kind == "multipart/form-data":
            return self.problems(
                schema, self._gathered(decoded_multipart(body, content_type), node["content"][kind]["schema"])
            )
        return self.problems(schema, json.loads(body))

    def form_problems(self, method: str, path: str, form: dict[str, Any]) -> list[str]:
        """What is wrong with the fields of a plain form: texts, or lists of them where a name is repeated."""
        kind = "application/x-www-form-urlencoded"
        pointer, operation = self._operation(method, path)
        described = self._resolved(f"{pointer}/requestBody", operation.get("requestBody"))
        assert described is not None
        pointer, node = described
        schema = node["content"][kind]["schema"]
        arrays = {name for name, one in schema["properties"].items() if one.get("type") == "array"}
        several = {name: [one] if name in arrays and isinstance(one, str) else one for name, one in form.items()}
        return self.problems(f"{pointer}/content/{_escaped(kind)}/schema", self._coerced(several, schema))

    def answer_problems(self, method: str, path: str, status: int, body: bytes) -> list[str]:
        """What is wrong with an answer's body."""
        pointer, operation = self._operation(method, path)
        key = str(status) if str(status) in operation["responses"] else "default"
        if key not in operation["responses"]:
            return [f"{method} {path} does not answer {status}"]
        found = self._resolved(f"{pointer}/responses/{key}", operation["responses"][key])
        assert found is not None
        pointer, node = found
        if "content" not in node:
            return [] if not body else [f"{method} {path} {status} has no body"]
        return self.problems(f"{pointer}/content/application~1json/schema", json.loads(body))

    def answers(self, method: str, path: str) -> set[str]:
        """The statuses that the contract describes."""
        return set(self._operation(method, path)[1]["responses"])

    def _gathered(self, fields: list[tuple[str, str | tuple[str, str, bytes]]], schema: Any) -> dict[str, Any]:
        """Fields as one object: those that the schema calls arrays as lists, files as their text."""
        found = self._resolved("", schema)
        described = (found[1] if found else {}).get("properties", {})
        gathered: dict[str, Any] = {}
        for name, value in fields:
            text = value if isinstance(value, str) else value[2].decode("latin-1")
            if described.get(name, {}).get("type") == "array":
                gathered.setdefault(name, []).append(text)
            else:
                assert name not in gathered, f"{name} comes twice"
                gathered[name] = text
        return gathered

    def _operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        for template, operations in self.document["paths"].items():
            pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path.partition("?")[0]) and method.lower() in operations:
                return f"/paths/{_escaped(template)}/{method.lower()}", operations[method.lower()]
        raise LookupError(f"the contract does not describe {method} {path}")

    def _resolved(self, pointer: str, node: Any) -> tuple[str, Any] | None:
        while isinstance(node, dict) and "$ref" in node:
            pointer = node["$ref"].removeprefix("#")
            node = self.document
            for part in pointer.strip("/").split("/"):
                node = node[part.replace("~1", "/").replace("~0", "~")]
        return None if node is None else (pointer, node)

    def _coerced(self, value: Any, schema: Any) -> Any:
        """Form texts in the schema's types; a text that does not fit stays, for jsonschema to complain about."""
        found = self._resolved("", schema)
        schema = found[1] if found else {}
        for branch in schema.get("anyOf", ()):
            turned = self._coerced(value, branch)
            if turned is not value or jsonschema.Draft202012Validator(_local(branch)).is_valid(turned):
                return turned
        if isinstance(value, dict):
            fields, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
            rest = rest if isinstance(rest, dict) else {}
            return {name: self._coerced(item, fields.get(name, rest)) for name, item in value.items()}
        if isinstance(value, list):
            return [self._coerced(item, schema.get("items", {})) for item in value]
        kinds = schema.get("type", [])
        if "integer" in kinds and re.fullmatch(r"-?\d+", value):
            return int(value)
        if "boolean" in kinds and value in {"true", "false"}:
            return value == "true"
        return value


def decoded_form(text: str) -> dict[str, Any]:
    """``a[b]=1&c[]=x`` as nested values."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        parts = re.findall(r"[^\[\]]+|\[\]", name)
        here: Any = root
        for part, following in pairwise(parts):
            here = here.setdefault(part, [] if following == "[]" else {})
        if parts[-1] == "[]":
            here.append(value)
        else:
            assert parts[-1] not in here, f"{name} comes twice"
            here[parts[-1]] = value
    return root


def decoded_multipart(body: bytes, content_type: str) -> list[tuple[str, str | tuple[str, str, bytes]]]:
    """The fields of a multipart form as Werkzeug reads them: texts, and files as (filename, type, content)."""
    decoder = MultipartDecoder(parse_options_header(content_type)[1]["boundary"].encode())
    decoder.receive_data(body)
    decoder.receive_data(None)
    found: list[tuple[str, str | tuple[str, str, bytes]]] = []
    head: Field | File | None = None
    content = b""
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, (Field, File)):
            head, content = event, b""
        elif isinstance(event, Data):
            content += event.data
            if not event.more_data and isinstance(head, File):
                found.append((head.name, (head.filename, head.headers["Content-Type"], content)))
            elif not event.more_data and head is not None:
                found.append((head.name, content.decode()))
        else:
            assert isinstance(event, Preamble), event
    return found


def _local(schema: Any) -> Any:
    return {key: value for key, value in schema.items() if key in {"type", "enum", "maxLength"}}


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


def _nullable(node: Any) -> Any:
    if isinstance(node, list):
        return [_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    turned = {key: _nullable(value) for key, value in node.items()}
    if turned.pop("nullable", None) is not True:
        return turned
    if "enum" in turned and None not in turned["enum"]:
        turned["enum"] = [*turned["enum"], None]
    if isinstance(turned.get("type"), str):
        turned["type"] = [turned["type"], "null"]
        return turned
    return {"anyOf": [turned, {"type": "null"}]}
