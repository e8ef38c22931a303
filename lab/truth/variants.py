"""Random configurations made from the cases: the same seed makes the same ones."""

from __future__ import annotations

import copy
import random
from typing import Any

Object = dict[str, Any]

PER_MESH = 12
"""So many variants share the mesh-wide objects: they can be on the lab together."""

_MODES = ("STRICT", "PERMISSIVE", "DISABLE", "UNSET")
_STAMPS = tuple(f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3))
_MOST_CHANGES = 5
_TLS_MODE = "security.istio.io/tlsMode"
_STATUS = "sidecar.istio.io/status"
_DOMAIN = "svc.cluster.local"
_API = {"PeerAuthentication": "security.istio.io/v1"} | dict.fromkeys(
    ("DestinationRule", "ServiceEntry", "Sidecar"), "networking.istio.io/v1"
)


def variants(cases: list[dict[str, Any]], seed: int, count: int) -> list[dict[str, Any]]:
    """Make cases without `expect`, from cases without ambient."""
    bases = [case for case in cases if not case["mesh"].get("ambient")]
    found = []
    for number in range(count):
        mesh, wide = _mesh(random.Random(f"{seed}/mesh/{number // PER_MESH}"))  # noqa: S311
        draft = _Draft(random.Random(f"{seed}/{number}"), bases, mesh["rootNamespace"])  # noqa: S311
        objects = [*wide, *draft.objects]
        name = f"V{seed}-{number:03}"
        found.append({"id": name, "title": draft.title, "mesh": mesh, "objects": objects})
    return found


def _chance(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def _object(kind: str, namespace: str, name: str, spec: Object, stamp: str = "") -> Object:
    meta = {"name": name, "namespace": namespace}
    if stamp:
        meta["creationTimestamp"] = stamp
    return {"apiVersion": _API.get(kind, "v1"), "kind": kind, "metadata": meta, "spec": spec}


def _pod(namespace: str, name: str, labels: dict[str, str], ports: list[Object]) -> Object:
    containers = [{"name": "app", "ports": ports}]
    made = _object("Pod", namespace, name, {"containers": containers})
    made["metadata"]["labels"] = labels
    return made


def _inject(pod: Object) -> None:
    pod["metadata"].setdefault("labels", {})[_TLS_MODE] = "istio"
    pod["metadata"].setdefault("annotations", {})[_STATUS] = "{}"
    pod["spec"]["containers"].append({"name": "istio-proxy"})


def _eject(pod: Object) -> None:
    pod["metadata"].get("labels", {}).pop(_TLS_MODE, None)
    pod["metadata"].get("annotations", {}).pop(_STATUS, None)
    containers = pod["spec"]["containers"]
    pod["spec"]["containers"] = [one for one in containers if one["name"] != "istio-proxy"]


def _mesh(rng: random.Random) -> tuple[dict[str, Any], list[Object]]:
    """Mesh settings, and the objects of the root namespace that act on the whole mesh."""
    root = rng.choice(["istio-system"] * 4 + ["mesh-root"])
    mesh: dict[str, Any] = {"rootNamespace": root, "enableAutoMtls": _chance(rng, 0.8)}
    if _chance(rng, 0.3):
        mesh["outboundTrafficPolicy"] = {"mode": "REGISTRY_ONLY"}
    objects: list[Object] = []
    if mode := rng.choice([None, None, *_MODES, "STRICT", "DISABLE"]):
        spec: Object = {"mtls": {"mode": mode}}
        objects.append(_object("PeerAuthentication", root, "default", spec, _STAMPS[0]))
    if _chance(rng, 0.4):
        spec = {"host": rng.choice(["*.local", f"*.{_DOMAIN}", "*"])}
        if tls := rng.choice([None, "ISTIO_MUTUAL", "DISABLE", "SIMPLE"]):
            spec["trafficPolicy"] = {"tls": {"mode": tls}}
        if _chance(rng, 0.3):
            spec["exportTo"] = ["."]
        objects.append(_object("DestinationRule", root, "wide", spec, _STAMPS[0]))
    if _chance(rng, 0.15):
        spec = {"egress": [{"hosts": [f"{root}/*", "./*"]}]}
        objects.append(_object("Sidecar", root, "default", spec, _STAMPS[0]))
    if _chance(rng, 0.4):
        client = _pod(root, "rootpod", {"app": "rootpod"}, [{"containerPort": 8080}])
        if _chance(rng, 0.8):
            _inject(client)
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        selector = {"app": "rootpod"}
        spec = {"selector": selector, "ports": ports}
        objects += [client, _object("Service", root, "rootpod", spec)]
    return mesh, objects


class _Draft:
    """One variant in the making."""

    def __init__(self, rng: random.Random, bases: list[dict[str, Any]], root: str) -> None:
        self.rng = rng
        self.root = root
        self._serial = 0
        base = rng.choice(bases)
        # what the case has in the root namespace gives way to the mesh of the variants
        self.objects = [
            copy.deepcopy(one)
            for one in base["objects"]
            if one["metadata"]["namespace"] != "istio-system"
        ]
        self._bases = bases
        changes = rng.choices(
            [
                self._namespace_policy,
                self._workload_policy,
                self._rule,
                self._graft,
                self._sidecar,
                self._label,
                self._headless,
                self._ports,
                self._endpoint,
                self._scope,
                self._entry,
                self._export,
                self._drop,
            ],
            weights=[3, 6, 9, 3, 2, 1, 2, 2, 2, 1, 2, 1, 1],
            k=rng.randint(1, _MOST_CHANGES),
        )
        for change in changes:
            change()
        words = ", ".join(change.__name__.lstrip("_") for change in changes)
        self.title = f"{base['id']} with {words}"

    def _of(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    @property
    def _namespaces(self) -> list[str]:
        return sorted({one["metadata"]["namespace"] for one in self.objects} - {self.root})

    def _name(self) -> str:
        self._serial += 1
        return f"{self.rng.choice('amz')}{self._serial}"

    def _add(self, kind: str, namespace: str, spec: Object) -> None:
        stamp = self.rng.choice(_STAMPS)
        self.objects.append(_object(kind, namespace, self._name(), spec, stamp))

    def _hosts(self) -> list[str]:
        found = [
            f"{one['metadata']['name']}.{one['metadata']['namespace']}.{_DOMAIN}"
            for one in self._of("Service")
        ]
        return found + [host for one in self._of("ServiceEntry") for host in one["spec"]["hosts"]]

    def _numbers(self, pod: Object) -> list[int]:
        ports = [p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", [])]
        return sorted({*ports, 80, 8080})

    def _namespace_policy(self) -> None:
        spec = self.rng.choice([*({"mtls": {"mode": mode}} for mode in _MODES), {}])
        where = self.rng.choice(self._namespaces)
        self._add("PeerAuthentication", where, copy.deepcopy(spec))

    def _workload_policy(self) -> None:
        if not self._of("Pod"):
            return
        pod = self.rng.choice(self._of("Pod"))
        labels = {k: v for k, v in pod["metadata"].get("labels", {}).items() if k != _TLS_MODE}
        if not labels:
            return
        key = self.rng.choice(sorted(labels))
        spec: Object = {"selector": {"matchLabels": {key: labels[key]}}}
        if mode := self.rng.choice([None, *_MODES]):
            spec["mtls"] = {"mode": mode}
        if _chance(self.rng, 0.6):
            numbers = self._numbers(pod)
            chosen = self.rng.sample(numbers, self.rng.randint(1, len(numbers)))
            spec["portLevelMtls"] = {str(n): {"mode": self.rng.choice(_MODES)} for n in chosen}
        where = pod["metadata"]["namespace"]
        if _chance(self.rng, 0.1):
            # a selector in the root namespace counts for nobody
            where = self.root
        self._add("PeerAuthentication", where, spec)

    def _policy(self, *, ports: list[int]) -> Object:
        rng = self.rng
        found: Object = {}
        if mode := rng.choice([None, "DISABLE", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "SIMPLE"]):
            found["tls"] = {"mode": mode}
        elif _chance(rng, 0.35):
            files = {"clientCertificate": "/c", "privateKey": "/k", "caCertificates": "/a"}
            found["tls"] = {"mode": "MUTUAL", **files}
        if _chance(rng, 0.1):
            found["tls"] = {"mode": "SIMPLE", "credentialName": "own"}
        if _chance(rng, 0.2):
            simple = rng.choice(["PASSTHROUGH", "ROUND_ROBIN"])
            found["loadBalancer"] = {"simple": simple}
        if ports and _chance(rng, 0.35):
            found["portLevelSettings"] = [
                {"port": {"number": number}, **self._policy(ports=[])}
                for number in rng.sample(ports, rng.randint(1, len(ports)))
            ]
        if not found:
            found["connectionPool"] = {"tcp": {"maxConnections": 7}}
        return found

    def _rule(self) -> None:
        rng, hosts = self.rng, self._hosts()
        if not hosts:
            return
        host = rng.choice(hosts)
        home = host.split(".")[1] if host.endswith(_DOMAIN) else rng.choice(self._namespaces)
        ports = sorted(
            {p["port"] for one in self._of("Service") for p in one["spec"]["ports"]}
            | {p["number"] for one in self._of("ServiceEntry") for p in one["spec"]["ports"]}
        )
        where = rng.choice([home, home, *self._namespaces, self.root])
        written = host
        if host.endswith(_DOMAIN) and _chance(rng, 0.35):
            short = host.split(".")[0] if where == home else host
            written = rng.choice([short, f"*.{home}.{_DOMAIN}", f"{host.split('.')[0]}.{home}"])
        if where != self.root and _chance(rng, 0.1):
            written = rng.choice(["*", "*.local"])
        spec: Object = {"host": written}
        if _chance(rng, 0.85):
            spec["trafficPolicy"] = self._policy(ports=ports)
        clients = [one for one in self._of("Pod") if one["metadata"]["namespace"] == where]
        if clients and _chance(rng, 0.12):
            app = rng.choice(clients)["metadata"].get("labels", {}).get("app", "none")
            spec["workloadSelector"] = {"matchLabels": {"app": app}}
        elif _chance(rng, 0.35):
            # its own namespace has two names, and istiod refuses both together
            others = sorted({*self._namespaces, rng.choice([".", where]), "*"} - {self.root})
            if "." in others:
                others = [one for one in others if one != where]
            chosen = rng.sample(others, rng.randint(1, min(2, len(others))))
            spec["exportTo"] = ["*"] if "*" in chosen else sorted(chosen)
        if _chance(rng, 0.35):
            spec["subsets"] = self._subsets(ports)
        self._add("DestinationRule", where, spec)

    def _subsets(self, ports: list[int]) -> list[Object]:
        labels = [one["metadata"].get("labels", {}) for one in self._of("Pod")]
        wanted = sorted({(k, v) for one in labels for k, v in one.items() if k != _TLS_MODE})
        found = []
        for number, (key, value) in enumerate(self.rng.sample(wanted, min(2, len(wanted)))):
            subset: Object = {"name": f"s{number}", "labels": {key: value}}
            if _chance(self.rng, 0.6):
                subset["trafficPolicy"] = self._policy(ports=ports)
            found.append(subset)
        return found

    def _graft(self) -> None:
        """Policies of another case on this one's objects."""
        hosts, pods = self._hosts(), self._of("Pod")
        if not hosts or not pods:
            return
        for given in self.rng.choice(self._bases)["objects"]:
            if given["kind"] not in {"PeerAuthentication", "DestinationRule"}:
                continue
            spec = copy.deepcopy(given["spec"])
            pod = self.rng.choice(pods)
            where = pod["metadata"]["namespace"]
            if given["kind"] == "PeerAuthentication" and spec.get("selector", {}).get(
                "matchLabels"
            ):
                app = pod["metadata"].get("labels", {}).get("app", "none")
                spec["selector"] = {"matchLabels": {"app": app}}
            if given["kind"] == "DestinationRule":
                where = self.rng.choice([*self._namespaces, self.root])
                spec["host"] = self.rng.choice(hosts)
                for subset in spec.get("subsets", []):
                    labels = self.rng.choice(pods)["metadata"].get("labels", {})
                    subset["labels"] = {"app": labels.get("app", "none")}
            self._add(given["kind"], where, spec)

    def _sidecar(self) -> None:
        pods = self._of("Pod")
        if pods:
            pod = self.rng.choice(pods)
            injected = _STATUS in pod["metadata"].get("annotations", {})
            (_eject if injected else _inject)(pod)

    def _label(self) -> None:
        """A label that lies, either way."""
        if pods := self._of("Pod"):
            labels = self.rng.choice(pods)["metadata"].setdefault("labels", {})
            if value := self.rng.choice(["istio", "disabled", ""]):
                labels[_TLS_MODE] = value
            else:
                labels.pop(_TLS_MODE, None)

    def _headless(self) -> None:
        if services := self._of("Service"):
            spec = self.rng.choice(services)["spec"]
            if spec.pop("clusterIP", None) is None and spec.get("type") != "ExternalName":
                spec["clusterIP"] = "None"

    def _ports(self) -> None:
        """One more service port, perhaps to a container port by its name."""
        if not self._of("Service"):
            return
        service = self.rng.choice(self._of("Service"))
        ports = service["spec"]["ports"]
        taken = {port["port"] for port in ports}
        number = self.rng.choice([n for n in (81, 8080, 9090, 3306, 443) if n not in taken])
        name = self.rng.choice(["http", "tcp", "https", "grpc", "mysql", "foo"])
        target: int | str = self.rng.choice([8080, 9090])
        if _chance(self.rng, 0.4):
            target = "web"
            for index, pod in enumerate(self._of("Pod")):
                listed = pod["spec"]["containers"][0].setdefault("ports", [])
                if not any(one.get("name") == "web" for one in listed):
                    listed.append({"name": "web", "containerPort": 7000 + index % 2})
        ports.append({"name": f"{name}-{number}", "port": number, "targetPort": target})

    def _endpoint(self) -> None:
        """One more pod behind a service, perhaps without a sidecar."""
        if not self._of("Service"):
            return
        service = self.rng.choice(self._of("Service"))
        where, selector = service["metadata"]["namespace"], service["spec"].get("selector")
        if not selector:
            return
        version = self.rng.choice(["v1", "v2"])
        ports = [{"containerPort": 8080}]
        pod = _pod(where, f"more-{self._name()}", {**selector, "version": version}, ports)
        if _chance(self.rng, 0.6):
            _inject(pod)
        self.objects.append(pod)

    def _scope(self) -> None:
        """A Sidecar: what clients may see."""
        where = self.rng.choice(self._namespaces)
        other = self.rng.choice(self._namespaces)
        hosts = self.rng.choice(
            [["./*"], [f"{other}/*"], ["*/*"], ["~/*"], [f"{self.root}/*", f"{other}/*"]]
        )
        spec: Object = {"egress": [{"hosts": hosts}]}
        if _chance(self.rng, 0.4):
            mode = self.rng.choice(["REGISTRY_ONLY", "ALLOW_ANY"])
            spec["outboundTrafficPolicy"] = {"mode": mode}
        pods = [one for one in self._of("Pod") if one["metadata"]["namespace"] == where]
        if pods and _chance(self.rng, 0.3):
            app = self.rng.choice(pods)["metadata"].get("labels", {}).get("app", "none")
            spec["workloadSelector"] = {"labels": {"app": app}}
        self._add("Sidecar", where, spec)

    def _entry(self) -> None:
        rng = self.rng
        where, number = rng.choice(self._namespaces), len(self._of("ServiceEntry"))
        port = {"number": 80, "name": "http", "protocol": "HTTP"}
        spec: Object = {"hosts": [f"e{number}.example.org"], "ports": [port]}
        if location := rng.choice([None, "MESH_INTERNAL", "MESH_INTERNAL", "MESH_EXTERNAL"]):
            spec["location"] = location
        spec["resolution"] = rng.choice(["STATIC", "STATIC", "DNS", "NONE"])
        if spec["resolution"] == "STATIC":
            pods = [one for one in self._of("Pod") if one["metadata"]["namespace"] == where]
            if pods and _chance(rng, 0.4):
                app = rng.choice(pods)["metadata"].get("labels", {}).get("app", "none")
                spec["workloadSelector"] = {"labels": {"app": app}}
            else:
                kinds: list[Object] = [
                    {},
                    {"labels": {_TLS_MODE: "istio"}},
                    {"serviceAccount": "vm"},
                ]
                spec["endpoints"] = [
                    {"address": f"10.9.8.{number}", **kind}
                    for number, kind in enumerate(rng.sample(kinds, rng.randint(1, 2)), 2)
                ]
        self._add("ServiceEntry", where, spec)

    def _export(self) -> None:
        if services := self._of("Service"):
            notes = self.rng.choice(services)["metadata"].setdefault("annotations", {})
            to = self.rng.choice([".", "*", self.rng.choice(self._namespaces)])
            notes["networking.istio.io/exportTo"] = to

    def _drop(self) -> None:
        policies = [*self._of("PeerAuthentication"), *self._of("DestinationRule")]
        if policies:
            self.objects.remove(self.rng.choice(policies))
