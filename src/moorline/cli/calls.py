"""``moorline calls``: what the calls of running processes do and why, their breakers and limits."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline.calls import taps
from moorline.cli.commands import Commands
from moorline.cli.show import AsJson, console, print_json, rows, say
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["cli"]

cli = Commands(
    help="Watch the calls of running processes, look at breakers and limits, force a breaker.", no_args_is_help=True
)

Service = Annotated[str | None, typer.Option(help="Calls of this service only.")]
Failed = Annotated[bool, typer.Option("--failed", help="Only what went wrong: no plain attempts and good ends.")]
Seconds = Annotated[float | None, typer.Option("--for", min=0.1, metavar="SECONDS", help="Stop after so long.")]

_LOOK_AGAIN = 1.0  # seconds between looks for processes that began meanwhile
_STYLES = {"refused": "red", "gave_up": "red", "retry": "yellow", "wait": "yellow", "state": "bold magenta"}


@cli.command()
def tail(service: Service = None, failed: Failed = False, seconds: Seconds = None, as_json: AsJson = False) -> None:
    """Print what the calls of this user's processes do, as it happens: retries, waits, refusals, each with its reason.

    Processes that begin meanwhile are listened to as well. Ctrl-C ends it.
    """
    if not as_json and not list(taps.sockets()):
        console.print("no process to listen to yet; waiting (moorline serve, worker and run have a tap)", style="dim")
    with contextlib.suppress(KeyboardInterrupt):
        for step in _steps(seconds):
            if _wanted(step, service, failed=failed):
                print_json(step, indent=None) if as_json else _show(step)


@cli.command()
def status(as_json: AsJson = False) -> None:
    """Show the breakers, rate gates, bulkheads and retry budgets of this user's processes, and what they passed on."""
    answers = taps.asked({"want": "state"})
    if as_json:
        print_json(answers)
        return
    rows(
        (
            "service",
            "pid",
            "breaker",
            "rate gate",
            "in flight",
            "under way",
            "retries left",
            "passed on",
            "shared over",
        ),
        (_status(answer["pid"], name, parts) for answer in answers for name, parts in answer["services"].items()),
        empty="no process to look at, or none that made a call",
    )


@cli.command()
def force(
    service: Annotated[str, typer.Argument(help="The name of the service, as in `moorline calls status`.")],
    state: Annotated[str, typer.Argument(help="open (refuse all calls), closed (let all pass) or auto (as before).")],
    as_json: AsJson = False,
) -> None:
    """Hold the breaker of a service open or closed in all running processes, or give it back to itself."""
    if state not in ("open", "closed", "auto"):
        raise typer.BadParameter(f"must be open, closed or auto, not {state!r}", param_hint="STATE")
    answers = taps.asked({"want": "force", "service": service, "state": None if state == "auto" else state})
    forced = sum(answer.get("forced", 0) for answer in answers)
    if as_json:
        print_json({"service": service, "state": state, "breakers": forced, "processes": len(answers)})
    elif forced:
        console.print(f"{service}: {forced} breaker{'s' if forced > 1 else ''} now {state}")
    else:
        console.print(f"no running process has a breaker of {service!r} (see `moorline calls status`)", style="red")
    if not forced:
        raise typer.Exit(1)


# Talking to the taps --------------------------------------------------------------------------------------------------


def _steps(seconds: float | None) -> Iterator[dict[str, Any]]:
    """The steps of all processes, as they come."""
    coming: queue.Queue[dict[str, Any]] = queue.Queue(100_000)
    listening: set[Path] = set()
    end = None if seconds is None else time.monotonic() + seconds
    look = 0.0
    while (now := time.monotonic()) and (end is None or now < end):
        if now >= look:
            look = now + _LOOK_AGAIN
            for path in taps.sockets():
                if path not in listening:
                    listening.add(path)
                    threading.Thread(target=_listen, args=(path, coming, listening), daemon=True).start()
        with contextlib.suppress(queue.Empty):
            yield coming.get(timeout=min(look, end or look) - now if min(look, end or look) > now else 0.01)


def _listen(path: Path, coming: queue.Queue[dict[str, Any]], listening: set[Path]) -> None:
    try:
        connection = taps.connected(path)
        if connection is None:
            return
        with connection, connection.makefile("rwb") as stream:
            stream.write(b'{"want": "steps"}\n')
            stream.flush()
            for line in stream:
                if line.strip():
                    coming.put(json.loads(line))
    except (OSError, ValueError, ConfigurationError):
        pass  # the process ended; if it comes again it has another socket
    finally:
        listening.discard(path)


# Showing --------------------------------------------------------------------------------------------------------------


def _wanted(step: dict[str, Any], service: str | None, *, failed: bool) -> bool:
    if service is not None and step.get("service") not in (service, None):
        return False
    good = step["kind"] in ("attempt", "finished") and not step.get("error") and step.get("reason") == "answered"
    return not (failed and (good or step["kind"] == "listening"))


def _show(step: dict[str, Any]) -> None:
    from moorline.calls.explain import line_of
    from moorline.calls.story import step_of

    if step["kind"] == "listening":
        console.print(f"listening to process {step['pid']}", style="dim")
        return
    if step["kind"] == "dropped":
        console.print(f"{step['count']} steps of process {step['pid']} were left out: they came too fast", style="red")
        return
    if step["kind"] == "attempt" and step["reason"] == "answered":
        return  # its end tells the same
    found = step_of(step)
    if found is None:
        return
    clock = datetime.fromtimestamp(step["at"], UTC).strftime("%H:%M:%S.%f")[:-3]
    name = ".".join(part for part in (step["service"], step["operation"]) if part)
    call = f" #{step['call']}" if step["call"] else ""
    style = "red" if step.get("error") else _STYLES.get(step["kind"], "")
    say(f"{clock}  {name}{call}  {line_of(found)}", style=style)


def _status(pid: int, name: str, parts: dict[str, Any]) -> tuple[object, ...]:
    bulkhead = parts.get("bulkhead")
    flying = f"{bulkhead['busy']}/{bulkhead['limit']}, {bulkhead['waiting']} waiting" if bulkhead else "-"
    return (
        name,
        pid,
        parts.get("breaker", "-"),
        "; ".join([_gate(parts.get("rate_gate") or {}), *_of_accounts(parts.get("rate_gates") or {})]),
        flying,
        _of_tenants(parts.get("under_way")),
        _of_tenants(parts.get("retries_left")),
        _of_tenants(parts.get("passed_on")),
        _shared(parts.get("shared")),
    )


def _gate(gate: dict[str, Any]) -> str:
    limits = "; ".join(gate.get("limits", ())) or "free"
    waiting = f"{gate['waiting']} waiting, next in {gate['seconds']:.3g} s: " if gate.get("waiting") else ""
    return waiting + limits


def _of_accounts(gates: dict[str, dict[str, Any]]) -> list[str]:
    """Those of which most calls wait stand first."""
    return [f"{account}: {_gate(gate)}" for account, gate in list(gates.items())[:5]]


def _shared(store: dict[str, Any] | None) -> str:
    if store is None:
        return "-"
    return store["where"] if store["up"] else f"{store['where']} is away: this process by itself"


def _of_tenants(counts: dict[str, int] | None) -> str:
    if not counts:
        return "-"
    return ", ".join(f"{tenant}: {count}" if tenant else str(count) for tenant, count in sorted(counts.items())[:5])
