"""Sidecars where there is only one user id: Envoy is told from the application by a socket mark.

istio-init lets through what belongs to user 1337, and the kernel refuses a rule about a user that
the namespace does not have. So Envoy marks its connections with that number, and the rules ask for
the mark. pilot-agent marks nothing: its connection to istiod passes by the port, its DNS queries
because DNS is not captured. The rest of what it connects to istio-init leaves alone anyway.

This keeps honest programs apart, no more: with one user id, every program of a pod may set a mark.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lab.node.images import Image

MARK = 1337
"""The number of Istio's user, which the rules name, and the mark that stands for it."""

RULES = rf"""
s/-m owner (! )?--[ug]id-owner {MARK}/-m mark \1--mark {MARK}/
/^-N ISTIO_OUTPUT$/a -A ISTIO_OUTPUT -p tcp --dport 15012 -j RETURN
/--to-ports? 15053$|-j CT /d
""".strip()
"""`sed -E` for istio-init's rules: users to marks, istiod's port let through, no DNS capture."""

_RESTORE = ("iptables-restore", "iptables-nft-restore", "iptables-legacy-restore")
"""One of these is istio-init's choice."""

_BOOTSTRAP = "/etc/istio/single-uid/bootstrap.json"


def adapt(image: Image, folder: Path) -> Image:
    """The image as it has to be for one user id; any but the proxy's stays as it is.

    Args:
        image: out of the table.
        folder: where to write what it needs.
    """
    if "envoy" not in image.programs:
        return image
    bootstrap = folder / "bootstrap.json"
    bootstrap.write_text(json.dumps(marking()))
    programs = dict(image.programs)
    for name in _RESTORE:
        if real := shutil.which(name):
            programs[name] = folder / name
            programs[name].write_text(wrapper(real))
            programs[name].chmod(0o755)
    return replace(
        image,
        programs=programs,
        files={**image.files, _BOOTSTRAP: bootstrap},
        # pilot-agent's own way to have its template of Envoy's first configuration changed
        environment={**image.environment, "ISTIO_BOOTSTRAP_OVERRIDE": _BOOTSTRAP},
    )


def wrapper(restore: str) -> str:
    """A script that gives istio-init's rules to an `iptables-restore`, rewritten."""
    return f'#!/bin/sh\nsed -E {shlex.quote(RULES)} | {shlex.quote(restore)} "$@"\n'


def marking() -> dict[str, object]:
    """The part of Envoy's bootstrap that marks its connections before they are made."""
    option = {
        "description": "the mark that stands for Istio's user",
        "level": socket.SOL_SOCKET,
        "name": socket.SO_MARK,
        "int_value": MARK,
        "state": "STATE_PREBIND",
    }
    return {"cluster_manager": {"upstream_bind_config": {"socket_options": [option]}}}
