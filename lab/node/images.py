"""The images the node agent can run: the only place that knows them.

An image is known by the last part of its name: `registry.istio.io/release/proxyv2:1.31.0` and a
private mirror's `proxyv2` are the same programs. Every other image stays simulated by kwok.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lab.paths import ROOT
from lab.sandbox import Isolation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lab.toolchain import Tools


PROGRAMS = ("pilot-discovery", "pilot-agent", "envoy", "prometheus", "jaeger")
"""What the toolchain has to have for the images below; the last two, where it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """What a container runtime would read from an image."""

    entrypoint: tuple[str, ...]
    """Program and first arguments, used unless the container has a `command`."""

    user: int = 0
    """Numeric user, used unless a securityContext says otherwise."""

    programs: Mapping[str, Path] = field(default_factory=dict)
    """Files of `/usr/local/bin`: name -> where the file is on this machine."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables, which a container's own ones override."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Other files: absolute path in the container -> where the file is on this machine."""


_BOOTSTRAP = "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json"
"""Where pilot-agent looks for the template of Envoy's first configuration."""

_BOOKINFO = (
    ("productpage", "v1"),
    ("details", "v1"),
    ("ratings", "v1"),
    ("reviews", "v1"),
    ("reviews", "v2"),
    ("reviews", "v3"),
)


_DRAIN_S = 2
"""Seconds for which a server goes on answering after SIGTERM: clients hear of its end later."""


def _server(name: str, **environment: str) -> Image:
    """A program of `lab.apps` that serves HTTP."""
    program = _program(name, **environment)
    return replace(program, entrypoint=(*program.entrypoint, "--drain", str(_DRAIN_S)))


def _program(name: str, flags: tuple[str, ...] = ("-S",), /, **environment: str) -> Image:
    """A program of `lab.apps`; these flags of Python's spare it the site packages."""
    return Image(
        entrypoint=(sys.executable, *flags, "-m", f"lab.apps.{name}"),
        user=1000,
        environment={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )


class Images:
    """The table."""

    def __init__(self, tools: Tools) -> None:
        self._table = {
            "pilot": Image(
                entrypoint=("/usr/local/bin/pilot-discovery",),
                user=1337,
                programs={"pilot-discovery": tools.path("pilot-discovery")},
            ),
            "proxyv2": Image(
                entrypoint=("/usr/local/bin/pilot-agent",),
                user=1337,
                programs={name: tools.path(name) for name in ("pilot-agent", "envoy")},
                files={_BOOTSTRAP: tools.share / "envoy_bootstrap.json"},
            ),
            **{
                f"examples-bookinfo-{name}-{version}": _server(name, SERVICE_VERSION=version)
                for name, version in _BOOKINFO
            },
            "podinfo": _server("podinfo"),
            "echo": _server("echo"),
            "client": _program("client"),
            "otlp-collector": _program("otlp_collector", ()),
        }
        # the entry points and users of the official images
        for name, user in (("prometheus", 65534), ("jaeger", 10001)):
            if name in tools:
                self._table[name] = Image(
                    entrypoint=(f"/usr/local/bin/{name}",),
                    user=user,
                    programs={name: tools.path(name)},
                )

    def find(self, reference: str, isolation: Isolation) -> Image | None:
        """The image of this reference, or None where no process can stand for it.

        Without namespaces only istiod can: the others would need a network of their own.
        """
        name = reference.rpartition("/")[2].partition("@")[0].partition(":")[0]
        if isolation is Isolation.NONE and name != "pilot":
            return None
        return self._table.get(name)
