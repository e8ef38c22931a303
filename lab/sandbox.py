"""The namespaces in which the whole lab lives.

Network, mount and process namespaces of their own: no route out, no port clash with the host, and
when the first process in them dies, the kernel ends every other one. As an ordinary user the same
inside a user namespace. Where the kernel forbids all of it the control plane still runs, on
loopback ports of the host, and says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from enum import StrEnum
from pathlib import Path

NODE_ADDRESS = "10.244.255.254"
"""The node, inside the lab. Private to the lab's network namespace."""

SERVICE_CIDR = "10.96.0.0/16"
"""Addresses of Services, as kubeadm's default."""

DNS_ADDRESS = "10.96.0.10"
"""The cluster's DNS server, where kubeadm and kind have it."""

_NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class Isolation(StrEnum):
    """What the kernel lets this user have."""

    ROOT = "root"
    """Namespaces made by root."""

    SUBUID = "subuid"
    """A user namespace with many ids (newuidmap and /etc/subuid): the same as root inside."""

    SINGLE_UID = "single-uid"
    """A user namespace with one id: sidecars are told apart by socket marks instead of users."""

    NONE = "none"
    """No namespaces: an API server and istiod on loopback, pods are simulated only."""

    def command(self) -> list[str]:
        """The `unshare` prefix that starts a program in this kind of sandbox."""
        match self:
            case Isolation.ROOT:
                return ["unshare", *_NAMESPACES]
            case Isolation.SUBUID:
                return ["unshare", "--user", "--map-root-user", "--map-auto", *_NAMESPACES]
            case Isolation.SINGLE_UID:
                return ["unshare", "--user", "--map-root-user", *_NAMESPACES]
            case Isolation.NONE:
                return []


def detect() -> Isolation:
    """The strongest isolation that works here, found by trying.

    LAB_ISOLATION names one to use instead: root, subuid, single-uid or none.
    """
    if chosen := os.environ.get("LAB_ISOLATION"):
        return Isolation(chosen)
    if os.geteuid() == 0:
        candidates = [Isolation.ROOT]
    elif shutil.which("newuidmap"):
        candidates = [Isolation.SUBUID, Isolation.SINGLE_UID]
    else:
        candidates = [Isolation.SINGLE_UID]
    for kind in candidates:
        probe = [*kind.command(), "true"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return kind
    return Isolation.NONE


def prepare_network() -> None:
    """Give the new network namespace its loopback, the node's and the DNS server's address.

    Runs inside the sandbox. `/run` becomes private, because `ip netns` keeps its files there.
    """
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("ip", "link", "set", "lo", "up")
    for address in (NODE_ADDRESS, DNS_ADDRESS):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    # the node itself uses Services too, and without a route a packet is never rewritten
    run("ip", "route", "add", SERVICE_CIDR, "dev", "lo", "src", NODE_ADDRESS)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def run(*command: str, stdin: str | None = None) -> str:
    """Run a system tool and return what it printed.

    Raises:
        RuntimeError: it failed; the message has the command and its error output.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
