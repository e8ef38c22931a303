"""The answer: one row per client, endpoint, service port and subset."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tlscheck.why import REASONS


class Client(StrEnum):
    """What leaves the client's proxy."""

    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    PLAINTEXT = "PLAINTEXT"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    HBONE = "HBONE"
    BLOCKED = "BLOCKED"
    NO_PROXY = "NO_PROXY"
    """No sidecar and no ztunnel: the application's own bytes, taken to be plaintext."""


class Server(StrEnum):
    """What the proxy in front of the port accepts."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"
    NO_PROXY = "NO_PROXY"


class Effective(StrEnum):
    """What happens on the wire."""

    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    HBONE = "HBONE"
    PLAINTEXT = "PLAINTEXT"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    CONFLICT = "CONFLICT"
    """The connection fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One connection, judged."""

    client_name: str
    """`namespace/pod`."""

    server_name: str
    """`namespace/pod`, `ep:<address>` of a ServiceEntry, or `host:<name>` without endpoints."""

    host: str
    """Full name of the service."""

    port: int
    """Service port."""

    subset: str | None
    """Subset of the DestinationRule; None is the service's main cluster."""

    client: Client
    server: Server
    effective: Effective

    reason: str
    """A stable code, e.g. `AUTO_MTLS`, `DR_TLS`, `PA_DISABLE`."""

    why: str
    """One line for a person, naming what decided."""

    client_rule: str | None
    """`namespace/name` of the DestinationRule that the client goes by; None = there is none."""

    server_rule: str | None
    """`namespace/name` of the PeerAuthentication that set the server's mode; None = the default."""

    @property
    def ok(self) -> bool:
        """Whether the connection works."""
        return self.effective is not Effective.CONFLICT

    @property
    def possible(self) -> bool:
        """Whether there is a connection: to a service without endpoints nobody connects."""
        return not (self.server_name.startswith("host:") and REASONS["NO_ENDPOINTS"] in self.why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Warning:
    """A configuration that does not mean what it seems to."""

    code: str
    """Stable, e.g. `PA_SELECTOR_IN_ROOT`."""

    subject: str
    """`Kind namespace/name`."""

    text: str
    """What it really does, and what to change."""
