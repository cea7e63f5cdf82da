"""oidc-provider, a certified OpenID provider from npm, for tests: on a free loopback port, ended by its own pid."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from joserfc.jwk import RSAKey
from tests import oracle_programs
from tests.servers import free_port, until

from moorline.calls.tokens import sandbox_pair

__all__ = ["CLIENTS", "SECRET", "OidcServer", "Visitor"]

_START_SECONDS = 60.0
SECRET = "a secret of the oidc client: with + and / in it"
CLIENTS: dict[str, dict[str, Any]] = {
    "basic": {"token_endpoint_auth_method": "client_secret_basic"},
    "post": {"token_endpoint_auth_method": "client_secret_post"},
    "public": {"token_endpoint_auth_method": "none"},
    "es256": {"id_token_signed_response_alg": "ES256"},
    "eddsa": {"id_token_signed_response_alg": "EdDSA"},
    "ps256": {"id_token_signed_response_alg": "PS256"},
}
_OTHERS: dict[str, dict[str, Any]] = {
    "terminal": {
        "token_endpoint_auth_method": "none",
        "grant_types": ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
        "redirect_uris": [],
        "response_types": [],
    },
    "machine": {"grant_types": ["client_credentials"], "redirect_uris": [], "response_types": []},
    "signing": {
        "token_endpoint_auth_method": "private_key_jwt",
        "grant_types": ["client_credentials"],
        "redirect_uris": [],
        "response_types": [],
    },
}

_SCRIPT = """
import { generateKeyPairSync } from 'node:crypto';
const { Provider } = await import(process.env.OIDC_LIBRARY);
const made = (kind, options, more) => ({ ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...more });
const port = Number(process.env.OIDC_PORT);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: JSON.parse(process.env.OIDC_CLIENTS),
  jwks: { keys: [
    made('rsa', { modulusLength: 2048 }, { kid: 'r' }),
    made('ec', { namedCurve: 'P-256' }, { kid: 'e' }),
    made('ed25519', {}, { kid: 'd' }),
  ] },
  cookies: { keys: ['of a test'] },
  scopes: ['openid', 'offline_access', 'email', 'profile'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA'] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true }, revocation: { enabled: true }, deviceFlow: { enabled: true }, clientCredentials: { enabled: true } },
  async findAccount(ctx, id) {
    const claims = { sub: id, email: `${id}@example.com`, email_verified: id !== 'unproved', name: id };
    return { accountId: id, async claims() { return claims; } };
  },
});
provider.listen(port, '127.0.0.1');
"""


def _has_no_secret(client: dict[str, Any]) -> bool:
    return client.get("token_endpoint_auth_method") in ("none", "private_key_jwt")


class OidcServer:
    """One for a ``with`` block, which sends users back to the *redirects*."""

    def __init__(self, *redirects: str) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        usual = {"redirect_uris": list(redirects), "grant_types": ["authorization_code"], "response_types": ["code"]}
        self._clients = [
            {"client_id": name, **usual, **({} if _has_no_secret(more) else {"client_secret": SECRET}), **more}
            for name, more in {**CLIENTS, **_OTHERS}.items()
        ]
        signing = next(one for one in self._clients if one["client_id"] == "signing")
        signing["jwks"] = {"keys": [RSAKey.import_key(sandbox_pair()[0]).as_dict(private=False, use="sig")]}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        node, library = oracle_programs.command("oidc-provider/lib/index.js")
        self._folder = Path(tempfile.mkdtemp(prefix="moorline-oidc-"))
        script = self._folder / "server.mjs"
        script.write_text(_SCRIPT)
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self._folder), "LANG": "C.UTF-8",
            "OIDC_LIBRARY": Path(library).as_uri(), "OIDC_PORT": str(self.port), "OIDC_CLIENTS": json.dumps(self._clients),
        }  # fmt: skip
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [node, str(script)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self._folder, env=environment
            )
        try:
            until(self._answers, seconds=_START_SECONDS)
        except AssertionError:
            said = (self._folder / "out").read_text(errors="replace")[-2000:]
            self.__exit__(None, None, None)
            raise RuntimeError(f"oidc-provider did not start:\n{said}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("it ended")
        try:
            return httpx2.get(f"{self.issuer}/.well-known/openid-configuration", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False


class Visitor:
    """Somebody with a browser, who fills in the provider's pages."""

    def __init__(self, server: OidcServer) -> None:
        self._issuer = server.issuer
        self.web = httpx2.AsyncClient(base_url=server.issuer, trust_env=False)

    async def through(self, url: str, name: str | None) -> str:
        """The address to which the visitor is sent back, having signed in under that name and consented; or, with
        None, having gone away.
        """
        answer = await self.web.get(url)
        for _ in range(12):
            where = answer.headers.get("location")
            if where is not None:
                if not where.startswith(("/", self._issuer)):
                    return where
                answer = await self.web.get(where)
                continue
            assert answer.status_code == 200, answer.text
            if name is None:
                found = re.search(r'href="([^"]+/abort)"', answer.text)
                assert found is not None
                answer = await self.web.get(html.unescape(found[1]))
                continue
            action, fields = _filled(answer.text, name)
            answer = await self.web.post(action, data=fields)
        raise AssertionError("the pages do not end")

    async def allows(self, url: str, name: str, *, abort: bool = False) -> None:
        """At the page of a device's code *url*, and the ones after it: the visitor signs in and consents, or goes away
        (*abort*).
        """
        answer, gone = await self.web.get(url), False
        for _ in range(16):
            where = answer.headers.get("location")
            if where is not None:
                answer = await self.web.get(where)
                continue
            if "<form" not in answer.text or (gone and abort):
                return
            found = re.search(r'href="([^"]+/abort)"', answer.text)
            if abort and found is not None:
                answer, gone = await self.web.get(html.unescape(found[1])), True
                continue
            action, fields = _filled(answer.text, name)
            answer = await self.web.post(action, data=fields)
        raise AssertionError("the pages do not end")


def _filled(page: str, name: str) -> tuple[str, dict[str, str]]:
    """Where the form of a page goes; its hidden fields, and the name."""
    action = re.search(r'<form[^>]*action="([^"]+)"', page)
    assert action is not None, page
    hidden = {one[0]: one[1] for one in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page)}
    if 'name="login"' in page:
        hidden |= {"login": name, "password": "any"}
    return html.unescape(action[1]), hidden
