"""Short ways to write the objects of a mesh."""

from __future__ import annotations

from typing import Any

from tlscheck import MeshConfig, Row, World
from tlscheck.evaluate import rows, warnings

ROOT = "istio-system"
Object = dict[str, Any]


def obj(kind: str, key: str, spec: Object | None = None, **metadata: Any) -> Object:
    namespace, name = key.split("/")
    return {
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec or {},
    }


def pod(
    key: str,
    proxy: str = "sidecar",
    *,
    labels: Object | None = None,
    notes: Object | None = None,
    tag: str | None = "istio",
    ports: Object | None = None,
) -> Object:
    own = {"app": key.split("/")[1], **(labels or {})}
    annotations = dict(notes or {})
    containers: list[Object] = [
        {
            "name": "app",
            "ports": [{"name": n, "containerPort": p} for n, p in (ports or {}).items()],
        }
    ]
    if proxy == "sidecar":
        annotations["sidecar.istio.io/status"] = "{}"
        containers.append({"name": "istio-proxy"})
        own |= {"security.istio.io/tlsMode": tag} if tag else {}
    elif proxy == "ambient":
        annotations["ambient.istio.io/redirection"] = "enabled"
    elif proxy == "gateway":
        containers = [{"name": "istio-proxy"}]
    elif proxy == "waypoint":
        containers = [{"name": "istio-proxy", "args": ["proxy", "waypoint"]}]
    elif proxy == "grpc":
        annotations["inject.istio.io/templates"] = "grpc-agent"
        annotations["sidecar.istio.io/status"] = "{}"
        containers.append({"name": "istio-proxy"})
        own |= {"security.istio.io/tlsMode": tag} if tag else {}
    return obj("Pod", key, {"containers": containers}, labels=own, annotations=annotations)


def svc(key: str, *, name: str = "http", notes: Object | None = None, **spec: Any) -> Object:
    app = key.split("/")[1]
    ports = [{"name": name, "port": 80, "targetPort": 8080}]
    given = {"selector": {"app": app}, "ports": ports, **spec}
    return obj("Service", key, given, annotations=notes or {})


def pa(key: str, mode: str | None = None, *, age: int = 0, **spec: Any) -> Object:
    if mode:
        spec["mtls"] = {"mode": mode}
    return obj("PeerAuthentication", key, spec, creationTimestamp=f"2026-01-01T00:00:{age:02}Z")


def for_app(app: str) -> Object:
    return {"matchLabels": {"app": app}}


def dr(key: str, host: str, mode: str | None = None, *, age: int = 0, **spec: Any) -> Object:
    if mode:
        spec.setdefault("trafficPolicy", {})["tls"] = {"mode": mode}
    stamp = f"2026-01-01T00:00:{age:02}Z"
    return obj("DestinationRule", key, {"host": host, **spec}, creationTimestamp=stamp)


def entry(key: str, host: str, protocol: str = "TCP", **spec: Any) -> Object:
    ports = [{"name": "p", "number": 80, "protocol": protocol}]
    return obj("ServiceEntry", key, {"hosts": [host], "ports": ports, **spec})


def sidecar(key: str, *hosts: str, **spec: Any) -> Object:
    return obj("Sidecar", key, {"egress": [{"hosts": list(hosts)}], **spec})


def judge(*objects: Object, ambient: bool = False, **mesh: Any) -> list[Row]:
    world = World.parse(objects, MeshConfig.parse(mesh, ambient=ambient))
    return list(rows(world))


def told(rows: list[Row], client: str = "cli/c", subset: str | None = None, **wanted: Any) -> str:
    """`CLIENT SERVER EFFECTIVE` of the one row that is meant."""
    found = [
        row
        for row in rows
        if row.client_name == client
        and row.subset == subset
        and all(getattr(row, name) == value for name, value in wanted.items())
    ]
    assert len(found) == 1, found
    return f"{found[0].client} {found[0].server} {found[0].effective}"


def codes(*objects: Object, ambient: bool = False, **mesh: Any) -> set[tuple[str, str]]:
    world = World.parse(objects, MeshConfig.parse(mesh, ambient=ambient))
    return {(warning.code, warning.subject) for warning in warnings(world)}


WEB = (pod("srv/web"), svc("srv/web"))
CLIENT = pod("cli/c")
MTLS = "ISTIO_MUTUAL PERMISSIVE ISTIO_MUTUAL"
PLAIN = "PLAINTEXT PERMISSIVE PLAINTEXT"
