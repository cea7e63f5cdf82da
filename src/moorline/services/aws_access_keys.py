"""Access keys of an IAM user, made and deleted by itself, for the services of AWS.

Facts: botocore's model of iam (2010-05-08, botocore 1.44): without a user's name it is that of the key which signs; a
user has two keys at a time. A new key is known everywhere after some seconds (unconfirmed how many). A key has no name
of ours, so that one whose answer was lost is found by nobody: delete it in the console.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from moorline.calls.aws import AwsErrors, AwsService
from moorline.calls.aws_keys import Pair
from moorline.calls.call import Call
from moorline.calls.minting import Minted
from moorline.calls.service import Endpoints, Plan, operation
from moorline.errors import LimitFault, NotFound
from moorline.secrets.secret import Secret
from moorline.services.answers import record, text
from moorline.services.key_answers import gone

__all__ = ["AccessKeys"]

_VARIABLE: Final = "AWS_SECRET_ACCESS_KEY"


class _Iam(AwsService):
    """The part of IAM that makes access keys, with the keys of *owner*."""

    name, category = "iam", "keys"
    model = "iam"
    endpoints = Endpoints("https://iam.amazonaws.com")
    errors = AwsErrors(model="iam", kinds={"LimitExceeded": LimitFault, "NoSuchEntity": NotFound})

    def __init__(self, owner: AwsService, **options: Any) -> None:
        self._owner = owner
        super().__init__(**options)

    @operation
    def create(self) -> Plan[Minted]:
        """Another key of the user whose key signs."""
        return self.ask("CreateAccessKey", {}, _minted)

    @operation
    def remove(self, /, key: str) -> Plan[bool]:
        """Delete a key of that user; False where there is none."""
        return self.ask("DeleteAccessKey", {"AccessKeyId": key}, lambda _: True, accept=gone)

    def own_keys(self) -> Pair | None:
        """The owner's."""
        return self._owner.own_keys()

    def secret(self) -> Secret:
        """The owner's."""
        return self._owner.secret()

    @property
    def variable(self) -> str | None:
        """The owner's."""
        return self._owner.variable

    @property
    def region(self) -> str:
        """The owner's: IAM is one for all regions of a part of AWS."""
        return self._owner.region

    def _signer(self, pair: Pair) -> Any:
        """IAM's signatures are of a region of its own."""
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials

        return SigV4Auth(Credentials(*pair), "iam", _signed_for(self.region))


class AccessKeys(AwsService):
    """A service of AWS whose IAM user may make keys of its own (``iam:CreateAccessKey`` and ``iam:DeleteAccessKey``).

    What is made is one value, ``ID:SECRET``, as both halves change together: ``AWS_SECRET_ACCESS_KEY`` and *api_key*
    may hold such a one, and then it goes before ``AWS_ACCESS_KEY_ID``. AWS's own tools do not know that form.
    """

    _iam: _Iam | None = None

    def mint_key(self, label: str) -> Call[Minted]:  # noqa: ARG002 (AWS gives keys no names)
        """Make another access key of the user. For ``moorline keys rotate``.

        Raises PermissionDenied where the user may not do that, LimitFault where it has two already, and an error of
        AWS's for the temporary keys of a role, which are renewed by themselves.
        """
        return self._keys().create()

    def revoke_key(self, id: str) -> Call[bool]:
        """Delete the access key of that id: it is refused from now on. False where there is none."""
        return self._keys().remove(id)

    def key_id(self, secret: Secret) -> str | None:
        """The access key's id, where it stands before the secret."""
        return secret.reveal().partition(":")[0] if ":" in secret.reveal() else None

    def _keys(self) -> _Iam:
        if self._iam is None:
            at = self.base_url if self._base_url is not None or self.in_sandbox else None
            options: dict[str, Any] = {"base_url": at, "clock": self.clock, "wire": self.wire, "guards": self.guards}
            self._iam = _Iam(self, **options)
        return self._iam

    async def aclose(self) -> None:
        """Close these connections too."""
        if self._iam is not None:
            await self._iam.aclose()
        await super().aclose()

    def close(self) -> None:
        """Close these connections too."""
        if self._iam is not None:
            self._iam.close()
        super().close()


@cache
def _signed_for(region: str) -> str:
    """The region that IAM's signatures are for, by the rules that come with its model."""
    from botocore.endpoint_provider import EndpointProvider
    from botocore.loaders import Loader

    rules, partitions = Loader().load_service_model("iam", "endpoint-rule-set-1"), Loader().load_data("partitions")
    found = EndpointProvider(rules, partitions).resolve_endpoint(Region=region, UseFIPS=False, UseDualStack=False)
    schemes: list[dict[str, str]] = found.properties.get("authSchemes") or [{}]
    return schemes[0].get("signingRegion", region)


def _minted(answer: Mapping[str, Any]) -> Minted:
    made = record(answer.get("AccessKey"), "AccessKey")
    name, secret = text(made, "AccessKeyId"), text(made, "SecretAccessKey")
    Secret(secret)  # it is masked alone as well
    return Minted(Secret(f"{name}:{secret}", name=_VARIABLE), name)
