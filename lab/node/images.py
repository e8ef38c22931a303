"""The images the node agent can run: the only place that knows them.

An image is known by the last part of its name: `registry.istio.io/release/proxyv2:1.31.0` and a
private mirror's `proxyv2` are the same programs. Every other image stays simulated by kwok.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.sandbox import Isolation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lab.toolchain import Tools


PROGRAMS = ("pilot-discovery",)
"""What the toolchain has to have for the images below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """What a container runtime would read from an image."""

    entrypoint: tuple[str, ...]
    """Program and first arguments, used unless the container has a `command`."""

    user: int = 0
    """Numeric user, used unless a securityContext says otherwise."""

    programs: Mapping[str, Path] = field(default_factory=dict)
    """Files of `/usr/local/bin`: name -> where the file is on this machine."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Other files: absolute path in the container -> where the file is on this machine."""


class Images:
    """The table."""

    def __init__(self, tools: Tools) -> None:
        self._table = {
            "pilot": Image(
                entrypoint=("/usr/local/bin/pilot-discovery",),
                user=1337,
                programs={"pilot-discovery": tools.path("pilot-discovery")},
            ),
        }

    def find(self, reference: str, isolation: Isolation) -> Image | None:
        """The image of this reference, or None where no process can stand for it.

        Without namespaces only istiod can: the others would need a network of their own.
        """
        name = reference.rpartition("/")[2].partition("@")[0].partition(":")[0]
        if isolation is Isolation.NONE and name != "pilot":
            return None
        return self._table.get(name)
