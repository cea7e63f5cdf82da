"""Keys of a Google service account, made and deleted by itself, for the services whose credential its key file is.

Facts: cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts.keys (create, delete). A key has no name of
ours, so that one whose answer was lost is found by nobody: delete it in the console. That a new key is good only after
a minute or so, and that an account has up to ten, is unconfirmed.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from moorline.calls.call import Call
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.minting import Minted
from moorline.calls.service import Endpoints, Plan, operation, segment
from moorline.calls.tokens import KeyFile, ServiceAccount, TokenService, key_file
from moorline.errors import BadAnswer, PermissionDenied
from moorline.secrets.secret import Secret
from moorline.services.answers import record, text
from moorline.services.key_answers import gone

__all__ = ["ServiceAccountKeys"]

_VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"


class _Keys(TokenService):
    """The part of Google's IAM that makes keys, with a token for that alone."""

    name, category = "google_iam", "keys"
    endpoints = Endpoints("https://iam.googleapis.com")
    credentials = KeyFile(env=_VARIABLE, service="google_iam")
    tokens = ServiceAccount("https://www.googleapis.com/auth/iam")
    errors = ErrorMap(
        code="error.status",
        message="error.message",
        limited=frozenset({"RESOURCE_EXHAUSTED"}),
        kinds={"PERMISSION_DENIED": PermissionDenied},
    )

    @operation
    def create(self, /, account: str) -> Plan[Minted]:
        """A new key of that account."""
        # Another format would be no key file.
        body = {"privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE", "keyAlgorithm": "KEY_ALG_RSA_2048"}
        return self.post(_path(account), json=body, parse=_minted)

    @operation
    def remove(self, /, account: str, key: str) -> Plan[bool]:
        """Delete a key; False where there is none."""
        path = f"{_path(account)}/{segment(key, 'id')}"
        return self.delete(path, parse=lambda _: True, blank=True, accept=gone)


class ServiceAccountKeys(TokenService):
    """A service whose credential is the key file of a service account that may make keys of its own
    (``iam.serviceAccountKeys.create`` and ``.delete`` on itself).
    """

    _own_keys: _Keys | None = None

    def mint_key(self, label: str) -> Call[Minted]:  # noqa: ARG002 (Google gives keys no names)
        """Make another key of the service account. For ``moorline keys rotate``. The secret is a whole key file.

        Raises PermissionDenied where the account may not do that.
        """
        return self._keys().create(self._account()["client_email"])

    def revoke_key(self, id: str) -> Call[bool]:
        """Delete the key of that id: no token is given for it any more, though tokens that were given last until their
        end. False where there is none.
        """
        return self._keys().remove(self._account()["client_email"], id)

    def key_id(self, secret: Secret) -> str | None:
        """The ``private_key_id`` of a key file."""
        return key_file(secret, self.name)["private_key_id"]

    def _account(self) -> Any:
        return key_file(self.secret(), self.name)

    def _keys(self) -> _Keys:
        if self._own_keys is None:
            at = self.base_url if self._base_url is not None or self.in_sandbox else None
            options: dict[str, Any] = {"base_url": at, "clock": self.clock, "wire": self.wire, "guards": self.guards}
            self._own_keys = _Keys(self.secret, **options)
        return self._own_keys

    async def aclose(self) -> None:
        """Close these connections too."""
        if self._own_keys is not None:
            await self._own_keys.aclose()
        await super().aclose()

    def close(self) -> None:
        """Close these connections too."""
        if self._own_keys is not None:
            self._own_keys.close()
        super().close()


def _path(account: str) -> str:
    return f"/v1/projects/-/serviceAccounts/{segment(account, 'client_email')}/keys"


def _minted(exchange: Exchange) -> Minted:
    answer = record(exchange.data)
    try:
        file = json.loads(base64.b64decode(text(answer, "privateKeyData"), validate=True))
    except (binascii.Error, ValueError):
        raise BadAnswer("the answer has no key file") from None
    fields = record(file, "privateKeyData")
    Secret(text(fields, "private_key"))  # it is masked from now on
    found = text(answer, "name").rpartition("/")[2]
    return Minted(Secret(json.dumps(fields, separators=(",", ":")), name=_VARIABLE), found)
