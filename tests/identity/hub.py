"""An application at which owners connect HubSpot, the sandbox's HubSpot, and a browser that goes between the two."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from tests.identity.shop import Browser

from moorline import Moorline
from moorline.identity.connection import Connection
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.services import HubSpot

HOME = "http://127.0.0.1:8000"
READ, WRITE = "crm.objects.contacts.read", "crm.objects.contacts.write"
DEALS = "crm.objects.deals.read"
KEY = new_key()
RING = KeyRing([Secret(KEY)])

__all__ = ["DEALS", "HOME", "KEY", "READ", "RING", "WRITE", "Owner", "contact", "grants", "of", "query", "seen"]


class Owner:
    """Somebody with a browser: *name* is who the application takes the browser for, by a header."""

    def __init__(self, app: Moorline, name: str = "u_1") -> None:
        self.browser = Browser(app, HOME, "127.0.0.1")
        self.name = name

    @property
    def name(self) -> str:
        return str(self.browser.client.headers["x-owner"])

    @name.setter
    def name(self, value: str) -> None:
        self.browser.client.headers["x-owner"] = value

    async def page(self, path: str = "/auth/connections") -> httpx2.Response:
        return await self.browser.get(path)

    async def begin(self, path: str = "/auth/hubspot/connect", **fields: str) -> str:
        """The address of the consent page to which the form leads."""
        answer = await self.submit(path, **fields)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def submit(self, path: str, **fields: str) -> httpx2.Response:
        """A form of this very site."""
        headers = {"origin": HOME, "sec-fetch-site": "same-origin"}
        return await self.browser.client.post(path, data=fields, headers=headers)

    async def consent(self, at: str, login: str = "acme", without: tuple[str, ...] = ()) -> str:
        """Press that button on the service's page: the address where it sends the browser back to."""
        async with httpx2.AsyncClient(trust_env=False) as web:
            page = await web.get(at)
            assert page.status_code == 200, page.text
            action = html.unescape(re.search(r'action="([^"]*)"', page.text)[1])  # type: ignore[index]
            scopes = [one for one in re.findall(r'name="scope" value="([^"]*)"', page.text) if one not in without]
            back = await web.post(action, data={"scope": scopes, "login": login})
            assert back.status_code == 302, back.text
            return back.headers["location"]

    async def connect(
        self, path: str = "/auth/hubspot/connect", login: str = "acme", without: tuple[str, ...] = (), **fields: str
    ) -> httpx2.Response:
        """The whole of it: the application's answer to the callback."""
        return await self.browser.get(await self.consent(await self.begin(path, **fields), login, without))


def contact(app: Moorline, owner: str = "u_1", **options: Any) -> Any:
    """A Call that reads contacts with the owner's token."""
    return app.connections.get(owner, HubSpot, **options).request("GET", "/crm/v3/objects/contacts")


async def of(app: Moorline, owner: str = "u_1") -> Connection:
    """The only connection of that owner."""
    [row] = await app.connections.list(owner)
    return row


def grants(sandbox: str, **told: Any) -> dict[str, Any]:
    """Tell the sandbox's HubSpot what its user does; what it holds."""
    answer: dict[str, Any] = httpx2.post(f"{sandbox}/hubspot/sandbox/grants", json=told, trust_env=False).json()
    return answer


def seen(sandbox: str, path: str) -> int:
    """How often HubSpot was asked for that path."""
    told = httpx2.get(f"{sandbox}/_sandbox/requests", trust_env=False).json()
    listed = told["requests"] if isinstance(told, dict) else told
    return sum(one["service"] == "hubspot" and one["path"].endswith(path) for one in listed)


def query(url: str) -> dict[str, list[str]]:
    """The parameters of an address."""
    return parse_qs(urlsplit(url).query)
