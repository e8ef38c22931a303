"""Reason codes in words."""

from __future__ import annotations

from functools import lru_cache

REASONS = {
    "AUTO_MTLS": "automatic mTLS: the endpoint has a sidecar",
    "AUTO_NO_SIDECAR": "automatic mTLS: the endpoint has no `istio` tlsMode label, so plaintext",
    "AUTO_MTLS_OFF": "enableAutoMtls is false and no DestinationRule sets tls",
    "BLOCKED": "the Sidecar does not import the host and outbound traffic is REGISTRY_ONLY",
    "CREDENTIAL_SKIPPED": "{client} has credentialName without workloadSelector: a sidecar skips "
    "its tls",
    "DR_TLS": "{client} sets tls",
    "DR_TLS_AT_ENDPOINT": "{client} sets a tls mode that its endpoints read, the cluster does not",
    "EXCLUDED_OUTBOUND": "the client's annotations keep this call from its sidecar",
    "HBONE": "the endpoint is reached through HBONE, which is always mutual",
    "MESH_EXTERNAL": "the host is outside the mesh: no automatic mTLS",
    "MUTUAL_WITHOUT_CERTIFICATE": "{client} says MUTUAL but names no certificate: tls is dropped",
    "NAMESPACE_DISABLE": "the service's namespace or the mesh is DISABLE: no automatic mTLS",
    "NOT_VISIBLE": "the service is not visible to the client: bytes pass as they are",
    "NO_CLIENT_PROXY": "the client has no proxy",
    "NO_ENDPOINTS": "no endpoint of the service is known",
    "OWN_CERTIFICATES": "the client's proxy is set up with certificate files of its own",
    "PA_DISABLE": "automatic mTLS: the endpoint's PeerAuthentication is DISABLE, so plaintext",
    "PASSTHROUGH_ALL": "headless or passthrough, and every endpoint has a sidecar",
    "PASSTHROUGH_EMPTY": "headless or passthrough without endpoints: no automatic mTLS",
    "PASSTHROUGH_MIXED": "headless or passthrough with an endpoint that has no sidecar: plaintext "
    "to all",
    "PROXYLESS": "proxyless gRPC: no automatic mTLS, only a DestinationRule's ISTIO_MUTUAL counts",
    "WAYPOINT_RAW": "the waypoint's endpoint does not take HBONE",
    "ZTUNNEL_RAW": "the endpoint does not take HBONE: ztunnel sends the bytes as they are",
}
FAILURES = {
    "BLOCKED": "",
    "EXCLUDED_INBOUND": "mTLS meets a port that is excluded from the sidecar; set tls DISABLE for "
    "it in a DestinationRule's portLevelSettings",
    "MTLS_TO_DISABLE": "mTLS meets a server whose {server} is DISABLE",
    "MTLS_TO_NO_PROXY": "mTLS meets a server without a sidecar to end it",
    "PLAINTEXT_TO_STRICT": "plaintext meets STRICT of {server}",
    "TLS_TO_HTTP": "TLS that is not Istio's meets an HTTP port; name the port https or tls",
    "TLS_TO_STRICT": "TLS without the mesh's client certificate meets STRICT of {server}",
}
"""Why a connection fails; the client's reason follows."""


@lru_cache(maxsize=65536)
def sentence(reason: str, failure: str, client_rule: str | None, server_rule: str | None) -> str:
    """Say in one line what decided."""
    parts = [part for part in (FAILURES.get(failure, ""), REASONS.get(reason, "")) if part]
    return ": ".join(parts).format(
        client=f"DestinationRule {client_rule}" if client_rule else "no DestinationRule",
        server=f"PeerAuthentication {server_rule}" if server_rule else "the server",
    )
