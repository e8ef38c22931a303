"""How long the evaluator takes on a big mesh, and how that grows: `python -m bench.tlscheck_bench`.

The mesh is made from a seed: 100 namespaces, 1,000 services, 3,000 pods and 500 policies, times
the scale. Times are of the processor, so that a busy machine does not count. Each scale has a
process of its own, so that the memory of one is not that of another. Last, both commands on one
file: `istioctl analyze --use-kube=false` (istioctl from PATH or the lab's toolchain) and tlscheck.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.toolchain import ensure
from tlscheck import MeshConfig, World
from tlscheck.evaluate import rows, summary, warnings

SEED = 20_260_822
CLIENTS_TIMED = 20


def _object(
    kind: str, namespace: str, name: str, spec: dict[str, Any], **metadata: object
) -> dict[str, Any]:
    api = {"PeerAuthentication": "security.istio.io/v1", "Pod": "v1", "Service": "v1"}
    return {
        "apiVersion": api.get(kind, "networking.istio.io/v1"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }


def _policy(rng: random.Random, scale: int, index: int) -> dict[str, Any]:
    """Make one policy: half of them are for servers, the rest for clients."""
    number = rng.randrange(1000 * scale)
    app, namespace = f"app-{number}", f"ns-{number % (100 * scale)}"
    mtls = {"mtls": {"mode": rng.choice(["STRICT", "PERMISSIVE", "DISABLE"])}}
    policy = {"tls": {"mode": rng.choice(["ISTIO_MUTUAL", "DISABLE", "SIMPLE"])}}
    subsets = [{"name": f"v{v}", "labels": {"version": f"v{v}"}} for v in range(2)]
    wild = f"*.{namespace}.svc.cluster.local"
    imports = ["./*", "istio-system/*", "*/app-1.*"]
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "namespace": ("PeerAuthentication", mtls),
        "workload": ("PeerAuthentication", {"selector": {"matchLabels": {"app": app}}, **mtls}),
        "sidecar": ("Sidecar", {"egress": [{"hosts": imports}]}),
        "private": ("DestinationRule", {"host": wild, "trafficPolicy": policy, "exportTo": ["."]}),
        "rule": ("DestinationRule", {"host": app, "trafficPolicy": policy, "subsets": subsets}),
    }
    kind, spec = kinds[rng.choices([*kinds], weights=[10, 40, 5, 5, 40])[0]]
    created = f"2026-01-01T00:{index // 60 % 60:02}:{index % 60:02}Z"
    return _object(kind, namespace, f"policy-{index}", spec, creationTimestamp=created)


def mesh(scale: int) -> list[dict[str, Any]]:
    """Make the objects of a mesh: nine of ten pods have a sidecar, one of ten services no IP."""
    rng = random.Random(SEED)  # noqa: S311 - a seed is the point
    objects: list[dict[str, Any]] = []
    for index in range(1000 * scale):
        namespace, app = f"ns-{index % (100 * scale)}", f"app-{index}"
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        if index % 3 == 0:
            ports.append({"name": "tcp", "port": 90, "targetPort": 9090})
        spec: dict[str, Any] = {"selector": {"app": app}, "ports": ports}
        if rng.randrange(10) == 0:
            spec["clusterIP"] = "None"
        objects.append(_object("Service", namespace, app, spec))
        for pod in range(3):
            own = {"app": app, "version": f"v{pod % 2}"}
            containers = [{"name": "app"}]
            notes = {}
            if rng.randrange(10):
                own["security.istio.io/tlsMode"] = "istio"
                notes["sidecar.istio.io/status"] = "{}"
                containers.append({"name": "istio-proxy"})
            metadata = {"labels": own, "annotations": notes}
            pod_spec = {"containers": containers}
            objects.append(_object("Pod", namespace, f"{app}-{pod}", pod_spec, **metadata))
    objects += [_policy(rng, scale, index) for index in range(500 * scale)]
    strict = {"mtls": {"mode": "STRICT"}}
    objects.append(_object("PeerAuthentication", "istio-system", "default", strict))
    rng.shuffle(objects)
    return objects


def measure(scale: int) -> None:
    """Print one line of figures."""
    objects = mesh(scale)
    started = time.process_time()
    world = World.parse(objects, MeshConfig())
    parsed = time.process_time() - started
    each = []
    found = 0
    for client in world.clients()[:: max(1, len(world.clients()) // CLIENTS_TIMED)]:
        world.outcomes.clear()
        started = time.process_time()
        found = sum(1 for _ in rows(world, client))
        each.append(time.process_time() - started)
    world.outcomes.clear()
    started = time.process_time()
    lines = connections = 0
    for line in summary(world):
        lines += 1
        connections += line.rows
    folded = time.process_time() - started
    started = time.process_time()
    said = len(warnings(world))
    warned = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"x{scale}  {len(objects):>7} objects  parse {parsed:6.2f} s  "
        f"one client {sorted(each)[len(each) // 2] * 1000:6.1f} ms (worst {max(each) * 1000:.1f}, "
        f"{found} rows)  summary {folded:6.2f} s ({lines} lines for {connections} connections)  "
        f"warnings {warned:5.2f} s ({said})  peak {peak:.0f} MB\n"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a command took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all its threads, in user mode and in the kernel."""
    peak: float
    """Resident memory at its highest, MB."""

    def text(self, unit: Cost) -> str:
        """Figures, and how they compare with those of another command."""
        parts = (
            f"wall {self.wall:7.2f} s ({self.wall / unit.wall:5.2f})",
            f"CPU {self.cpu:7.2f} s ({self.cpu / unit.cpu:5.2f})",
            f"peak {self.peak:5.0f} MB ({self.peak / unit.peak:5.2f})",
        )
        return "  ".join(parts)


def cost(*command: str) -> Cost:
    """Run a command to its end, whatever it finds."""
    words = (sys.executable, "-m", "bench.cost", *command)
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(found.stdout))


def beside(scale: int) -> None:
    """Compare tlscheck's command with istioctl's analysis of the same objects."""
    istioctl = str(ensure(["istioctl"]).bin_dir / "istioctl")
    objects = mesh(scale)
    tlscheck = (sys.executable, "-m", "tlscheck", "-f")
    with tempfile.TemporaryDirectory() as folder:
        written, short, fast = (Path(folder) / n for n in ("mesh.yaml", "few.yaml", "mesh.json"))
        written.write_text(yaml.dump_all(objects, Dumper=yaml.CSafeDumper))
        short.write_text(yaml.dump_all(objects[:5], Dumper=yaml.CSafeDumper))
        fast.write_text(json.dumps({"kind": "List", "items": objects}))
        analysed = cost(istioctl, "analyze", "--use-kube=false", str(written))
        pair = ("app-101-0.ns-1", "app-7.ns-7")
        commands = {
            "tlscheck, every edge": (*tlscheck, str(written)),
            "tlscheck, one client": (*tlscheck, str(written), "--from", pair[0]),
            "tlscheck, one pair": (*tlscheck, str(written), *pair),
            "tlscheck, one pair, JSON": (*tlscheck, str(fast), *pair),
            "tlscheck, 5 objects": (*tlscheck, str(short)),
        }
        size = written.stat().st_size / 1e6
        sys.stdout.write(
            f"\n{len(objects)} objects in {size:.1f} MB of YAML; in brackets: as a multiple of "
            f"istioctl analyze\n{'istioctl analyze':26}{analysed.text(analysed)}\n"
        )
        for name, command in commands.items():
            sys.stdout.write(f"{name:26}{cost(*command).text(analysed)}\n")


def main() -> None:
    """Measure one scale, or each of three in a process of its own, and the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, help="one scale only, in this process")
    scale = parser.parse_args().scale
    if scale:
        measure(scale)
        return
    for each in (1, 2, 4):
        command = [sys.executable, "-m", "bench.tlscheck_bench", "--scale", str(each)]
        subprocess.run(command, check=True)
    beside(1)


if __name__ == "__main__":
    main()
