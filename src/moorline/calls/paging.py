"""``Pages``: a listing of a service, page after page, from either colour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from moorline.calls.call import Call, Options
from moorline.calls.exchange import Page, Plan
from moorline.errors import BadAnswer
from moorline.policies.checks import check_count

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["Pages"]

T = TypeVar("T")
_MOST_PAGES: Final = 10_000  # a listing that never ends is a fault of the service, not a reason to run for ever


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """The items of a listing: ``async for item in pages`` or ``for item in pages``. Each page is a Call of its own.

    ``page()`` is the Call of the first page only. Iterating raises what a Call raises, and BadAnswer when a page
    names itself as the next one, or more than *most* pages come.
    """

    service: Service
    operation: str
    plan: Plan[Page[T]] = field(repr=False)
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Options = field(default_factory=Options, repr=False)
    most: int = _MOST_PAGES

    def __post_init__(self) -> None:
        check_count("Pages", "most", self.most)

    def page(self) -> Call[Page[T]]:
        """The first page, as a Call: its ``items``, and ``next``."""
        call = Call.of(self.service, self.operation, self.plan, self.args, self.kwargs)
        return replace(call, options=self.options)

    def using(self, **options: Any) -> Pages[T]:
        """The same listing with the options of ``Call.using``, for each page."""
        return replace(self, options=self.page().using(**options).options)

    def __iter__(self) -> Iterator[T]:
        call: Call[Page[T]] | None = self.page()
        count = 0
        while call is not None:
            page = call.result()
            yield from page.items
            count += 1
            call = self._after(call, page, count)

    async def __aiter__(self) -> AsyncIterator[T]:
        call: Call[Page[T]] | None = self.page()
        count = 0
        while call is not None:
            page = await call
            for item in page.items:
                yield item
            count += 1
            call = self._after(call, page, count)

    def _after(self, call: Call[Page[T]], page: Page[T], count: int) -> Call[Page[T]] | None:
        if page.next is None:
            return None
        context: dict[str, Any] = {"service": self.service.name, "operation": self.operation}
        following, this = page.next, call.plan
        if (following.path, following.query, following.json) == (this.path, this.query, this.json):
            raise BadAnswer(f"page {count} names itself as the next one", **context)
        if count >= self.most:
            raise BadAnswer(f"the listing has more than {self.most} pages", **context)
        return replace(Call.of(self.service, self.operation, page.next, replayable=False), options=self.options)
