"""What holds for every service of the category ``auth``: each gets this suite by naming itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from tests.services.conftest import Box

from moorline import errors
from moorline.identity import Keeping
from moorline.services.auth.protocol import User

Run = Callable[[Any], Any]
EMAIL, PASSWORD = "ada@example.com", "correct-horse-9"


class AuthSuite:
    """*kind* is the service; *taken* what an address that is taken gives; *extra* what a user needs besides; *options*
    and *parameters* what an object of it is made with; *keys* the path at which its keys are.
    """

    kind: ClassVar[Any]
    taken: ClassVar[type[errors.CallError]] = errors.Conflict
    extra: ClassVar[dict[str, Any]] = {}
    options: ClassVar[dict[str, Any]] = {}
    keys: ClassVar[str] = "/.well-known/jwks.json"
    metadata: ClassVar[tuple[str, ...]] = ("app_metadata", "user_metadata")
    update_apart: ClassVar[bool] = False
    deletes_nobody: ClassVar[bool] = False

    def service(self, box: Box, **options: Any) -> Any:
        """An object of it at the sandbox."""
        return box.service(self.kind, **{**self.options, **options})

    def user(self, box: Box, **fields: Any) -> User:
        """A new user."""
        wanted = {"email": EMAIL, "password": PASSWORD, **self.extra, **fields}
        made: User = self.service(box).create_user(**wanted).result()
        return made

    def token(self, box: Box, user: User, **wanted: Any) -> str:
        """A token of a user, as the sandbox makes it."""
        answer = box.client.post(f"/{self.kind.name}/sandbox/token", json={"user_id": user.id, **wanted})
        assert answer.status_code == 200, answer.text
        made: str = answer.json()["token"]
        return made

    def test_a_token_is_verified(self, box: Box, run: Run):
        """It tells who the user is; nothing but the keys is asked for, and those once."""
        user, service = self.user(box), self.service(box)
        token = self.token(box, user)
        asked = len(box.seen())
        found = [run(service.verify_token(token)) for _ in range(3)]
        assert [one.id for one in found] == [user.id] * 3
        assert found[0].expires_at is not None
        assert found[0].issued_at is not None
        assert found[0].expires_at > found[0].issued_at
        assert found[0].raw["sub"] == user.id
        assert EMAIL not in repr(found[0].raw)
        assert [entry["path"] for entry in box.seen()[asked:]] == [self.keys]

    @pytest.mark.parametrize(
        ("wanted", "reason"),
        [
            ({"lifetime": -600}, "expired"),
            ({"claims": {"iss": "https://issuer.example"}}, "issuer"),
            ({"claims": {"aud": ["somebody else"]}}, "audience"),
            ({"claims": {"sub": None}}, "claims"),
            ({"claims": {"sub": ""}}, "claims"),
            ({"claims": {"sub": 5}}, "claims"),
            ({"claims": {"exp": None}}, "claims"),
            ({"claims": {"exp": 1e15}}, "claims"),
            ({"claims": {"iat": 4_000_000_000, "exp": 4_100_000_000}}, "early"),
        ],
    )
    def test_tokens_that_are_not_believed(self, box: Box, wanted: dict[str, Any], reason: str):
        """Over, of another issuer or audience, about nobody, of tomorrow: refused, by its reason."""
        token = self.token(box, self.user(box), **wanted)
        with pytest.raises(errors.InvalidToken) as caught:
            self.service(box).verify_token(token).result()
        assert caught.value.reason == reason
        assert token[-20:] not in str(caught.value)

    def test_forgeries_are_refused(self, box: Box, run: Run):
        """Another signature, none at all, another's key, a public key for a secret; and what is no token."""
        service, token = self.service(box), self.token(box, self.user(box))
        head, body, mark = token.split(".")
        for forged in (f"{head}.{body}.{mark[::-1]}", f"{head}.{body}.", f"{head}.{body}", "opaque", "", "a.b.c"):
            with pytest.raises(errors.InvalidToken):
                run(service.verify_token(forged))

    def test_keys_are_changed(self, box: Box, run: Run, monkeypatch: pytest.MonkeyPatch):
        """A token with a new key is verified as well as one with the old key, until that is taken away."""
        monkeypatch.setattr(self.kind, "keeping", Keeping(floor=1e-9))
        user, service = self.user(box), self.service(box)
        old = self.token(box, user)
        assert run(service.verify_token(old)).id == user.id
        box.client.post(f"/{self.kind.name}/sandbox/keys")
        assert run(service.verify_token(self.token(box, user))).id == user.id
        assert run(service.verify_token(old)).id == user.id
        box.client.post(f"/{self.kind.name}/sandbox/keys")
        assert run(service.verify_token(self.token(box, user))).id == user.id
        with pytest.raises(errors.InvalidToken):
            run(service.verify_token(old))

    def test_keys_that_cannot_be_had(self, box: Box, run: Run):
        """Are no fault of the token: CallError, with the service's name. Once they are there an outage is not felt."""
        user, service = self.user(box), self.service(box)
        token = self.token(box, user)
        box.arm(service=self.kind.name, path=self.keys, kind="status", status=503, count=2)
        with pytest.raises(errors.ServiceUnavailable) as caught:
            run(service.verify_token(token))
        assert (caught.value.service, caught.value.operation) == (self.kind.name, "keys")
        fresh = self.service(box)
        assert run(fresh.verify_token(token)).id == user.id
        box.arm(service=self.kind.name, path=self.keys, kind="status", status=503, count=2)
        assert run(fresh.verify_token(token)).id == user.id

    def test_users_come_and_go(self, box: Box, run: Run):
        """Created, read, changed, listed, deleted, and gone."""
        service = self.service(box)
        made = run(service.create_user(email=EMAIL, password=PASSWORD, name="Ada", email_verified=True, **self.extra))
        assert (made.email, made.disabled) == (EMAIL, False)
        found = run(service.get_user(made.id))
        assert (found.id, found.email, found.email_verified, found.name) == (made.id, EMAIL, True, "Ada")
        assert found.created_at is not None
        assert found.raw
        changed = run(service.update_user(made.id, name="Ada Lovelace"))
        assert changed.id == made.id
        assert run(service.get_user(made.id)).name == "Ada Lovelace"
        assert [one.id for one in service.list_users()] == [made.id]
        assert run(service.delete_user(made.id)) is None
        with pytest.raises(errors.NotFound) as caught:
            run(service.get_user(made.id))
        assert (caught.value.service, caught.value.operation) == (self.kind.name, "get_user")
        assert list(service.list_users()) == []

    def test_metadata_are_kept(self, box: Box, run: Run):
        """What only our side writes, and what the user may write, apart."""
        service = self.service(box)
        wanted = {name: {"plan": name, "n": 1} for name in self.metadata}
        made = run(service.create_user(email=EMAIL, password=PASSWORD, **wanted, **self.extra))
        found = run(service.get_user(made.id))
        for name in self.metadata:
            assert dict(getattr(found, name)).items() >= wanted[name].items()
            run(service.update_user(made.id, **{name: {"plan": "pro"}}))
            assert getattr(run(service.get_user(made.id)), name)["plan"] == "pro"
        assert "pro" not in repr(found)

    def test_an_address_is_there_once(self, box: Box, run: Run):
        """A second user of it is refused, and told by the service's own code."""
        self.user(box)
        with pytest.raises(self.taken) as caught:
            run(self.service(box).create_user(email=EMAIL, password=PASSWORD, **self.extra))
        assert caught.value.code
        assert PASSWORD not in str(caught.value)

    def test_nobody(self, box: Box, run: Run):
        """A user who is not there is NotFound, whatever is wanted of him."""
        service, nobody = self.service(box), self.nobody()
        verbs = [service.get_user(nobody), service.update_user(nobody, name="x")]
        for call in verbs if self.deletes_nobody else [*verbs, service.delete_user(nobody)]:
            with pytest.raises(errors.NotFound):
                run(call)

    def nobody(self) -> str:
        """The id of no user."""
        return "nobody-0"

    def test_listing_reads_all_pages(self, box: Box):
        """Each user once, in pages of two, as well as in one; lazily."""
        made = {self.user(box, email=f"u{number}@example.com").id for number in range(5)}
        service = self.service(box)
        assert sorted(one.id for one in service.list_users(page_size=2)) == sorted(made)
        assert sorted(one.id for one in service.list_users()) == sorted(made)

    def test_odd_ids_reach_no_other_resource(self, box: Box):
        """An id is one segment of a path, or a value; never a way out of it."""
        self.user(box)
        for odd in ("../users", "a/b", "x?y=z", "a#b"):
            try:
                self.service(box).get_user(odd).result()
            except (errors.NotFound, errors.InvalidRequest):
                continue
            raise AssertionError(odd)

    async def test_closing_it(self, box: Box):
        """Closes the connections to the keys as well; it can be used again."""
        user, service = self.user_of(box), self.service(box)
        token = self.token(box, user)
        assert (await service.verify_token(token)).id == user.id
        await service.aclose()
        assert (await service.get_user(user.id)).id == user.id
        await service.aclose()
        service.close()

    def user_of(self, box: Box) -> User:
        """A new user, made outside of the running loop."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self.user, box).result()
