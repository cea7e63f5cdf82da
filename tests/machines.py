"""Machines for tests: network namespaces on a bridge, whose links can be cut. Needs root and iproute2.

::

    with Network() as network:
        one = network.machine("one")
        network.cut(one)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Interface
from types import TracebackType
from typing import Self
from uuid import uuid4

__all__ = ["Machine", "Network", "why_no_machines"]


def _ip(*arguments: str) -> None:
    """Raises RuntimeError with what ``ip`` said."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def why_no_machines() -> str | None:
    """What keeps us from making machines here; None if nothing does."""
    if shutil.which("ip") is None:
        return "there is no ip command (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces are made by root only"
    probe = f"moor-{uuid4().hex[:6]}"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "delete", probe)
    except RuntimeError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace with an address of its own; ``link`` is the bridge's end of its cable."""

    namespace: str
    address: str
    link: str

    def command(self, *command: str) -> list[str]:
        """That command, run on this machine: ``ip`` becomes it, so that its process id is the command's."""
        return ["ip", "netns", "exec", self.namespace, *command]


class Network:
    """A bridge and the machines on it, all removed at the end of the ``with`` block.

    ``address`` is ours on the bridge, with the length of the network's prefix.
    """

    def __init__(self) -> None:
        tag = uuid4()
        self._tag = tag.hex[:6]
        self._bridge = f"moor{self._tag}"
        # The upper half of 10.0.0.0/8, by chance: nobody else's here.
        self.address = IPv4Interface(f"10.{128 + tag.bytes[-1] % 128}.{tag.bytes[-2]}.1/24")
        self._machines: list[Machine] = []

    def __enter__(self) -> Self:
        _ip("link", "add", self._bridge, "type", "bridge")
        try:
            _ip("address", "add", str(self.address), "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in self._machines:
            with contextlib.suppress(RuntimeError):
                _ip("link", "delete", machine.link)
            with contextlib.suppress(RuntimeError):
                _ip("netns", "delete", machine.namespace)
        _ip("link", "delete", self._bridge)

    def machine(self, name: str) -> Machine:
        """Another machine on the bridge."""
        number = len(self._machines) + 2
        interface = IPv4Interface(f"{self.address.ip + number - 1}/{self.address.network.prefixlen}")
        machine = Machine(f"moor-{self._tag}-{name}", str(interface.ip), f"mv{self._tag}{number}")
        self._machines.append(machine)
        far = f"mw{self._tag}{number}"
        _ip("netns", "add", machine.namespace)
        _ip("link", "add", machine.link, "type", "veth", "peer", "name", far)
        _ip("link", "set", far, "netns", machine.namespace)
        _ip("link", "set", machine.link, "master", self._bridge, "up")
        _ip("-n", machine.namespace, "link", "set", "lo", "up")
        _ip("-n", machine.namespace, "address", "add", str(interface), "dev", far)
        _ip("-n", machine.namespace, "link", "set", far, "up")
        return machine

    def cut(self, machine: Machine) -> None:
        """Pull the machine's cable."""
        _ip("link", "set", machine.link, "down")

    def mend(self, machine: Machine) -> None:
        """Plug it in again."""
        _ip("link", "set", machine.link, "up")

    def hide(self, machine: Machine, address: str) -> None:
        """Let that machine's packets to *address* vanish, and no others."""
        _ip("-n", machine.namespace, "route", "add", "blackhole", f"{address}/32")

    def second_address(self) -> str:
        """Another address of ours on the bridge: to be reached at when the first one is hidden."""
        second = IPv4Interface(f"{self.address.ip + 200}/{self.address.network.prefixlen}")
        _ip("address", "add", str(second), "dev", self._bridge)
        return str(second.ip)
