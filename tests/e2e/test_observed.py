"""`tlscheck --prometheus` beside a real Prometheus, which holds what Istio's proxies would emit.

Needs no cluster: `promtool` writes the sample's blocks, and the real server answers on loopback.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import toolchain
from tests.unit.tlscheck_objects import for_app, obj, pa

pytestmark = pytest.mark.e2e

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
MINUTE, HOUR = 60, 3600
READY_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A counter of one proxy, a value each minute."""

    source: str
    to: str
    grows: float = 1
    """Each minute."""
    begins: int = 3 * HOUR
    ends: int = 0
    """Seconds ago."""
    policy: str = "mutual_tls"
    reporter: str = "destination"
    metric: str = "istio_requests"
    flags: str = "-"

    def lines(self, now: int) -> Iterator[str]:
        labels = {
            "reporter": self.reporter,
            **_end("source", self.source),
            **_end("destination", self.to),
            "destination_service": f"{self.to}.bookinfo.svc.cluster.local",
            "destination_service_name": self.to,
            "destination_service_namespace": "bookinfo",
            "destination_cluster": "Kubernetes",
            "source_cluster": "Kubernetes",
            "response_flags": self.flags,
            "connection_security_policy": self.policy,
            "request_protocol": "tcp" if "tcp" in self.metric else "http",
            "instance": f"{self.to}:15020",
            "job": "kubernetes-pods",
        }
        if "tcp" not in self.metric:
            labels |= {"response_code": "200", "grpc_response_status": ""}
        inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        for number, at in enumerate(range(now - self.begins, now - self.ends + 1, MINUTE)):
            yield f"{self.metric}_total{{{inside}}} {1 + number * self.grows} {at}"


def _end(side: str, name: str) -> dict[str, str]:
    namespace = {"unknown": "unknown", "istio-ingressgateway": "istio-system"}.get(name, "bookinfo")
    app = "unknown" if name == "unknown" else name.removesuffix("-v1")
    known = name != "unknown"
    return {
        f"{side}_workload": name,
        f"{side}_workload_namespace": namespace,
        f"{side}_principal": f"spiffe://cluster.local/ns/{namespace}/sa/{app}"
        if known
        else "unknown",
        f"{side}_app": app,
        f"{side}_version": "v1" if known else "unknown",
        f"{side}_canonical_service": app,
        f"{side}_canonical_revision": "v1" if known else "latest",
    }


TCP = "istio_tcp_connections_opened"
SAMPLE = [
    Series(source="productpage-v1", to="details-v1", grows=2),
    Series(source="productpage-v1", to="details-v1", grows=2, reporter="source", policy="unknown"),
    # one plaintext request in all the time: a series of one value
    Series(source="productpage-v1", to="reviews-v1", policy="none", grows=0, begins=20 * MINUTE),
    Series(source="productpage-v1", to="reviews-v1"),
    # until two hours ago
    Series(source="reviews-v1", to="details-v1", policy="none", ends=2 * HOUR),
    Series(source="reviews-v1", to="details-v1", begins=2 * HOUR - MINUTE),
    Series(source="reviews-v1", to="mongodb-v1", metric=TCP),
    # TLS to a plaintext port, which the server's proxy counts as a bad request
    Series(source="unknown", to="details-v1", policy="none", flags="DPE"),
    Series(source="unknown", to="mongodb-v1", policy="none", metric=TCP, begins=10 * MINUTE),
]


def workload(name: str) -> list[Json]:
    """A Deployment in the mesh and its Service."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": {**labels, "sidecar.istio.io/inject": "true"}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 9080}]}]},
    }
    spec = {"selector": {"matchLabels": labels}, "template": template}
    ports = [{"name": "tcp" if name == "mongodb" else "http", "port": 9080}]
    return [
        obj("Deployment", f"bookinfo/{name}-v1", spec) | {"apiVersion": "apps/v1"},
        obj("Service", f"bookinfo/{name}", {"selector": labels, "ports": ports}),
    ]


OBJECTS = [
    *(item for name in ("productpage", "details", "reviews", "mongodb") for item in workload(name)),
    pa("istio-system/default", "STRICT"),
    pa("bookinfo/mongodb", "PERMISSIVE", selector=for_app("mongodb")),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with the sample, below a path prefix."""
    tools = toolchain.ensure(["prometheus", "promtool"])
    for tool in ("prometheus", "promtool"):
        if tool not in tools:
            pytest.skip(f"{tool} is neither on PATH nor to be had on this machine")
    folder, now = tmp_path_factory.mktemp("prometheus"), int(time.time())
    sample, config, data = folder / "sample.om", folder / "prometheus.yml", folder / "data"
    families: dict[str, list[str]] = {}
    for series in SAMPLE:
        families.setdefault(series.metric, []).extend(series.lines(now))
    text = [f"# TYPE {name} counter\n" + "\n".join(lines) for name, lines in families.items()]
    ups = [f'up{{job="kubernetes-pods"}} 1 {now - ago}' for ago in range(3 * HOUR, -1, -MINUTE)]
    sample.write_text("\n".join([*text, "# TYPE up gauge", *ups, "# EOF\n"]))
    config.write_text("scrape_configs: []\n")
    subprocess.run(
        [tools.path("promtool"), "tsdb", "create-blocks-from", "openmetrics", sample, data],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = f"http://127.0.0.1:{free.getsockname()[1]}/metrics-of/mesh"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(tools.path("prometheus"), f"--config.file={config}"),
                *(f"--storage.tsdb.path={data}", f"--web.external-url={found}"),
                f"--web.listen-address={found.split('/')[2]}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait(found, server, folder / "log")
        yield found
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + READY_S
    while True:
        try:
            urllib.request.urlopen(f"{address}/-/ready", timeout=5).close()
        except (OSError, urllib.error.URLError):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        else:
            return


def tlscheck(address: str, *argv: str) -> subprocess.CompletedProcess[str]:
    text = json.dumps({"kind": "List", "items": OBJECTS})
    command = [sys.executable, "-m", "tlscheck", "-f", "-", "--prometheus", address, *argv]
    return subprocess.run(
        command, cwd=ROOT, input=text, capture_output=True, text=True, check=False, timeout=60
    )


def observed(address: str, *argv: str) -> tuple[int, dict[tuple[str, str], Json], set[str]]:
    """Exit code, what was seen by the two ends of a connection, and the warnings' codes."""
    done = tlscheck(address, "--output", "json", *argv)
    assert not done.stderr.startswith("tlscheck: http"), done.stderr
    report = json.loads(done.stdout)
    short = [
        (tuple(row[end].split("/")[1].removesuffix("-v1") for end in ("from", "to")), row)
        for row in report["rows"]
    ]
    seen = {(source, to): row["observed"]["traffic"] for (source, to), row in short}
    return done.returncode, seen, {warning["code"] for warning in report["warnings"]}


def test_each_edge_has_what_a_real_prometheus_counted(address: str) -> None:
    code, seen, _ = observed(address)
    words = {edge: one["seen"] for edge, one in seen.items() if one["seen"] != "no traffic"}
    assert words == {
        ("productpage", "details"): "mutual_tls",
        ("productpage", "reviews"): "mutual_tls + none",
        ("reviews", "details"): "mutual_tls",
        ("reviews", "mongodb"): "mutual_tls",
    }
    assert {edge: one["agrees"] for edge, one in seen.items() if one["agrees"] is not None} == {
        ("productpage", "details"): True,
        ("productpage", "reviews"): False,
        ("reviews", "details"): True,
        ("reviews", "mongodb"): True,
    }
    assert code == 1


def test_counts_are_those_of_the_window(address: str) -> None:
    _, seen, codes = observed(address)
    # 60 minutes, as far as Prometheus extrapolates and the test takes
    assert 110 <= seen["productpage", "details"]["requests"]["mutual_tls"] <= 130
    assert 110 <= seen["productpage", "details"]["sent"] <= 130
    assert 55 <= seen["reviews", "mongodb"]["connections"]["mutual_tls"] <= 65
    assert seen["productpage", "reviews"]["requests"]["none"] == 1
    assert "PROMETHEUS_YOUNG" not in codes


def test_a_shorter_window_leaves_out_what_was_before(address: str) -> None:
    code, seen, _ = observed(address, "--since", "10m")
    assert (code, seen["productpage", "reviews"]["seen"]) == (0, "mutual_tls")


def test_a_window_that_spans_a_change_of_rules_disagrees_and_says_since_when(address: str) -> None:
    done = tlscheck(address, "reviews-v1.bookinfo", "details:9080", "--since", "170m")
    assert done.returncode == 1
    assert "mutual_tls + none, disagrees" in done.stdout
    assert "TRAFFIC_DISAGREES Workload bookinfo/details-v1: took " in done.stdout
    assert "rules that have changed since: ask again with a shorter --since" in done.stdout


def test_plaintext_of_strangers_is_told_of_the_permissive_server_only(address: str) -> None:
    done = tlscheck(address, "--to", "mongodb")
    assert done.returncode == 0
    assert "warning: PLAINTEXT_SEEN Workload bookinfo/mongodb-v1: took " in done.stdout
    assert "of clients that do not say who they are, and may: it is not STRICT" in done.stdout
    # what came as TLS to a plaintext port is none of it
    assert "PLAINTEXT_SEEN" not in tlscheck(address, "--to", "details").stdout


def test_a_prometheus_that_has_not_been_there_so_long_says_so(address: str) -> None:
    assert "PROMETHEUS_YOUNG" in observed(address, "--since", "1d")[2]


def test_an_address_without_the_path_prefix_is_one_clear_error(address: str) -> None:
    done = tlscheck(address.removesuffix("/metrics-of/mesh"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "a path prefix is missing" in done.stderr
