"""The part of an application that has a dashboard: for whom it is open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from moorline.clock import Clock
from moorline.dashboard.tokens import dashboard_tokens
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from moorline.dashboard.gate import Allow
    from moorline.dashboard.routes import Dashboard
    from moorline.identity.routes import SignInRoutes
    from moorline.identity.sessions import Session
    from moorline.settings import Settings
    from moorline.store.store import Store

__all__ = ["Showing"]

_PREFIX = "/dashboard"


class Showing:
    """The part of ``Moorline`` that shows itself to an operator."""

    settings: Settings
    store: Store
    clock: Clock
    receiver: Any
    _dashboard: Dashboard | None = None
    _dashboard_allow: Allow | None = None
    _dashboard_users: frozenset[str] = frozenset()
    _signing: SignInRoutes | None

    if TYPE_CHECKING:

        async def session(self, request: Any) -> Session | None:
            """The application's own."""
            ...

        def _ending_secrets(self) -> Iterator[tuple[str, str, float]]: ...

    def dashboard(self, *, allow: Allow | None = None, users: Collection[str] = ()) -> None:
        """Open ``/dashboard`` for users who have signed in: those whose ids are in *users*, and those of whom *allow*,
        async or plain, says True: ``app.dashboard(allow=lambda session: session.user in operators)``.

        ``[dashboard] users`` does the same by settings; ``MOORLINE_DASHBOARD_TOKEN`` opens it for those who enter that.
        Raises ConfigurationError for what is neither, and without jinja2 (extra ``dashboard``).
        """
        from moorline.dashboard.drawing import check_installed

        if allow is None and not users:
            raise ConfigurationError("dashboard: for whom? give users or allow, or set MOORLINE_DASHBOARD_TOKEN")
        if isinstance(users, str) or "" in users:
            raise ConfigurationError("dashboard: users must be ids of users")
        if allow is not None and not callable(allow):
            raise ConfigurationError("dashboard: allow must be a function that takes a Session")
        check_installed()
        self._dashboard_allow = allow
        self._dashboard_users |= frozenset(users)
        self._dashboard = None

    def dashboard_open(self) -> bool:
        """Whether anybody may enter. Raises ConfigurationError for a token that is too short."""
        allowed = self._dashboard_allow is not None or self._dashboard_users or self.settings.dashboard.users
        return bool(dashboard_tokens(self.clock.wall())) or bool(allowed)

    def sign_in_providers(self) -> Mapping[str, str]:
        """The providers with which users sign in: names, and what they are called."""
        return (
            {} if self._signing is None else {name: desk.provider.title for name, desk in self._signing.desks.items()}
        )

    def _shown(self) -> Dashboard:
        if self._dashboard is None:
            from moorline.dashboard.gate import Gate
            from moorline.dashboard.routes import Dashboard

            chosen = self.settings.dashboard
            gate = Gate(
                self.store,
                self.clock,
                session=self.session,
                allow=self._dashboard_allow,
                users=self._dashboard_users.union(chosen.users),
                idle=chosen.idle,
                longest=chosen.longest,
            )
            app: Any = self
            self._dashboard = Dashboard(app, gate, self.receiver.intake.origin, self._ending_secrets)
        return self._dashboard

    def _dashboard_at(self, path: str) -> Dashboard | None:
        """The dashboard, if it is open and the path is one of its own."""
        ours = path in (_PREFIX, f"{_PREFIX}.json") or path.startswith(f"{_PREFIX}/")
        return self._shown() if ours and self.dashboard_open() else None
