"""What a service has to know of an account beside its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import Moorline, errors
from moorline.calls.dialects import BearerKey, Endpoints
from moorline.calls.guards import Guards
from moorline.calls.parameters import Parameter
from moorline.calls.service import Plan, Service, operation, segment


class Courier(Service):
    """A service with an account."""

    name, category = "courier", "sms"
    endpoints = Endpoints("https://courier.example", regions={"eu": "https://eu.courier.example"})
    credentials = BearerKey(env="COURIER_KEY")
    account = Parameter("COURIER_ACCOUNT", sandbox="AC0", like="AC[0-9]+")
    edge = Parameter("COURIER_EDGE", default="none")

    @operation
    def read(self) -> Plan[Any]:
        """Read."""
        return self.get(f"/accounts/{segment(self.account)}/{self.edge}", parse=lambda exchange: exchange.data)


def asked(**options: Any) -> str:
    """The path that is asked for."""
    seen: list[str] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append(f"{request.url.host}{request.url.path}")
        return httpx2.Response(200, json={})

    Courier("key-0123456789", wire=httpx2.MockTransport(wire), guards=Guards(), **options).read().result()
    return seen[0]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine counts."""
    for name in ("COURIER_ACCOUNT", "COURIER_EDGE", "COURIER_SITE", "MOORLINE_SANDBOX_URL"):
        monkeypatch.delenv(name, raising=False)


def test_where_it_is_found(monkeypatch: pytest.MonkeyPatch):
    """The argument wins over the variable, which is read at each use; an optional one has its default."""
    with pytest.raises(errors.ConfigurationError, match=r"COURIER_ACCOUNT.*pass account to Courier"):
        asked()
    monkeypatch.setenv("COURIER_ACCOUNT", "AC2")
    assert asked() == "courier.example/accounts/AC2/none"
    assert asked(account="AC1", edge="x") == "courier.example/accounts/AC1/x"
    assert asked(account=None) == "courier.example/accounts/AC2/none"


def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    """A value of another shape is refused without being shown: somebody may have put the key there."""
    for value in ("canary", "AC1 ", "", 5):
        with pytest.raises(errors.ConfigurationError, match=r"courier.account") as caught:
            asked(account=value)
        assert "canary" not in str(caught.value)
    monkeypatch.setenv("COURIER_ACCOUNT", "canary")
    with pytest.raises(errors.ConfigurationError, match="COURIER_ACCOUNT") as caught:
        asked()
    assert "canary" not in str(caught.value)


def test_unknown_arguments_are_named():
    """A misspelt one is no silent default."""
    with pytest.raises(errors.ConfigurationError, match=r"'acount'.*account, edge"):
        Courier(acount="AC1")


def test_in_the_sandbox_it_needs_none(monkeypatch: pytest.MonkeyPatch):
    """The sandbox's own stands in where the environment points there."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", "http://127.0.0.1:9")
    assert Courier().account == "AC0"


def test_settings_give_region_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``[services.NAME]`` has both."""
    (tmp_path / "moorline.toml").write_text("[services.courier]\nregion = 'eu'\nparameters = { account = 'AC7' }\n")
    monkeypatch.chdir(tmp_path)
    service = Moorline("sqlite:///m.db").service(Courier)
    assert (service.account, service.base_url) == ("AC7", "https://eu.courier.example")


class Tenant(Courier):
    """A service whose address holds the account's name."""

    name = "tenant"
    endpoints = Endpoints("https://{site}.courier.example", regions={"eu": "https://{site}.eu.courier.example"})
    site = Parameter("COURIER_SITE", sandbox="acme")
    account = Parameter("COURIER_ACCOUNT", default="AC0")


def test_a_parameter_in_the_host():
    """It stands in the address of each region, in lower case, and each account has guards of its own."""
    assert Tenant("key-0123456789", site="Acme").base_url == "https://acme.courier.example"
    assert Tenant("key-0123456789", site="a-1.b", region="eu").base_url == "https://a-1.b.eu.courier.example"
    one, two = (Tenant("key-0123456789", site=site) for site in ("one", "two"))
    assert one._guard_name(one.base_url) != two._guard_name(two.base_url)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80))
def test_no_parameter_leads_elsewhere(site: str):
    """Whatever it holds, the host ends as the service's do, or it is refused."""
    try:
        address = Tenant("key-0123456789", site=site).base_url
    except errors.ConfigurationError as error:
        assert "site" in str(error)  # noqa: PT017
        return
    parts = httpx2.URL(address)
    assert (parts.scheme, parts.path, parts.query, parts.userinfo, parts.port) == ("https", "/", b"", b"", None)
    assert parts.host == f"{site.lower()}.courier.example"


def test_a_service_without_its_address_is_shown():
    """What is not known yet stays open in its repr, and is an error where it is needed."""
    assert repr(Tenant("key-0123456789")) == "<Tenant>"
    with pytest.raises(errors.ConfigurationError, match="COURIER_SITE"):
        _ = Tenant("key-0123456789").base_url
