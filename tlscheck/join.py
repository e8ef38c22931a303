"""What happens on the wire when a client's bytes meet a server's port (sections 4 and 8)."""

from __future__ import annotations

from tlscheck.model import Protocol
from tlscheck.rows import Client, Effective, Server


def join(
    client: Client, server: Server, protocol: Protocol, *, ambient: bool, mesh_certificates: bool
) -> tuple[Effective, str]:
    """Return the outcome, and the reason code when it fails.

    Args:
        client: what arrives.
        server: what is accepted.
        protocol: what the service's port carries.
        ambient: ztunnel is the server: it terminates nothing but HBONE.
        mesh_certificates: a MUTUAL client shows certificates that the mesh trusts.
    """
    failure = ""
    effective = Effective.PLAINTEXT
    if client in (Client.PLAINTEXT, Client.NO_PROXY):
        failure = "PLAINTEXT_TO_STRICT" if server is Server.STRICT else ""
    elif client is Client.BLOCKED:
        failure = "BLOCKED"
    else:
        effective = Effective(client.value)
    if client is Client.ISTIO_MUTUAL:
        if server is Server.NO_PROXY or ambient:
            failure = "MTLS_TO_NO_PROXY"
        elif server is Server.DISABLE:
            failure = "MTLS_TO_DISABLE"
    elif client in (Client.SIMPLE, Client.MUTUAL) and server is not Server.NO_PROXY:
        meshed = mesh_certificates and not ambient and server is not Server.DISABLE
        if server is Server.STRICT and not meshed:
            failure = "TLS_TO_STRICT"
        elif protocol is Protocol.HTTP and not ambient and not meshed:
            failure = "TLS_TO_HTTP"
    return (Effective.CONFLICT if failure else effective), failure
