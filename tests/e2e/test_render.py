"""What is rendered without a cluster is what an update makes of one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.paths import ROOT
from render.checkout import checkout
from review.manifests import Key, key_of, split
from tlscheck.stack import HIDDEN

if TYPE_CHECKING:
    from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.e2e

RELEASES = ("istio-base", "istiod", "istio-ingressgateway", "istio-egressgateway")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What `make render` wrote and said."""

    folder: Path
    said: str

    def objects(self) -> dict[Key, dict[str, Any]]:
        """What stands in the files."""
        texts = (one.read_text() for one in self.folder.rglob("*.yaml"))
        return {key: item for text in texts for key, item in split(text).items()}


@pytest.fixture(scope="module")
def rendered(mesh: Mesh) -> Iterator[Rendered]:
    """The stack dev, rendered in a network namespace without any interface, without a kubeconfig.

    The same stack is installed on the lab.
    """
    mesh.reset_settings()
    mesh.up()
    folder = ROOT / "rendered" / "dev"
    offline = ["unshare", "--map-root-user", "--net", sys.executable, "-m", "lab"]
    done = subprocess.run(
        [*offline, "--state", str(mesh.paths.state / "elsewhere"), "render", "--base", "HEAD"],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield Rendered(folder=folder, said=done.stdout)
    finally:
        shutil.rmtree(folder)


def quantity(text: object) -> Decimal | None:
    """A Kubernetes quantity as a number: the API server writes 1Gi for 1024Mi."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|Ki|Mi|Gi)?", str(text))
    units = {
        "m": Decimal("0.001"),
        "Ki": Decimal(2**10),
        "Mi": Decimal(2**20),
        "Gi": Decimal(2**30),
    }
    return Decimal(found[1]) * units.get(found[2], Decimal(1)) if found else None


def differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Where the cluster has something else than was rendered; what it has besides is its own."""
    if ours in HIDDEN or ours == theirs:
        return
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if value is None:
                continue
            # an empty field is left out by the API server, and a Secret's is kept encoded
            if key in theirs or value not in ("", [], {}, *HIDDEN):
                yield from differences(value, theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ".resources." not in path or quantity(ours) is None or quantity(ours) != quantity(theirs):
        yield f"{path}: rendered {ours!r}, in the cluster {theirs!r}"


def test_every_object_that_is_rendered_is_in_the_cluster_and_as_rendered(
    mesh: Mesh, rendered: Rendered
) -> None:
    objects = rendered.objects()
    live = {key_of(one): one for one in mesh.get("-R", "-f", str(rendered.folder))}

    assert len(objects) > 80
    assert live.keys() == objects.keys()
    found = [
        line for key, item in objects.items() for line in differences(item, live[key], key.place)
    ]
    assert found == []


def test_every_object_that_the_stack_owns_is_rendered(mesh: Mesh, rendered: Rendered) -> None:
    owned: set[Key] = set()
    for name in RELEASES:
        manifest = mesh.run("helm", "get", "manifest", "-n", "istio-system", name).out
        owned |= split(manifest).keys()
    state = json.loads(mesh.pulumi("stack", "export").out)
    for one in state["deployment"]["resources"]:
        if "kind" in one.get("outputs", {}):
            owned.add(key_of(one["outputs"]))

    assert len(owned) > 80
    assert owned == rendered.objects().keys()


def answers(output: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """What tlscheck says of each pair of workloads."""
    found = {}
    for row in json.loads(output)["rows"]:
        # of a pod of a Deployment the name without its two hashes
        ends = [
            re.sub(r"-[0-9a-z]{5,10}-[0-9a-z]{5}$", "", str(row[end])) for end in ("from", "to")
        ]
        # one pod does not call itself, and only a cluster has a Service of its API server
        if ends[0] != ends[1] and not row["host"].startswith("kubernetes.default."):
            edge = (*ends, row["host"], str(row["port"]), str(row.get("subset")))
            found[edge] = tuple(str(row[key]) for key in ("client", "server", "effective", "why"))
    return found


def test_tlscheck_says_of_the_files_what_it_says_of_the_cluster(
    mesh: Mesh, rendered: Rendered
) -> None:
    tlscheck = [sys.executable, "-m", "tlscheck", "--output", "json"]
    files = answers(mesh.run(*tlscheck, "-f", str(rendered.folder)).out)
    cluster = answers(mesh.run(*tlscheck, *mesh.stack.cluster()).out)

    assert len(files) > 300
    assert files == cluster


def test_istioctl_finds_no_more_in_the_cluster_than_in_the_files(
    mesh: Mesh, rendered: Rendered
) -> None:
    assert "istioctl analyze: 0 findings by" in rendered.said
    assert "bookinfo/productpage-v1" in rendered.said
    assert "objects in rendered/dev\ndev, compared with HEAD: " in rendered.said
    done = mesh.run("istioctl", "analyze", "--all-namespaces", "--output", "json", ok=False).out
    found = json.loads(done[done.index("[") :])
    # a namespace that is not the stack's: nothing was said about injection there
    assert {one["origin"] for one in found} <= {"Namespace default"}


def test_a_base_shows_exactly_the_object_that_a_setting_changes(mesh: Mesh, tmp_path: Path) -> None:
    words = ["--base-ref", "HEAD", "--out", str(tmp_path / "out")]
    words += ["--config", f"chartSource={mesh.paths.charts}"]
    with checkout("HEAD", ROOT) as folder:
        settings = folder / "Pulumi.dev.yaml"
        settings.write_text(settings.read_text() + "  service-mesh:mtlsMode: PERMISSIVE\n")
        out = mesh.run(sys.executable, "-m", "render", "--program", str(folder), *words).out

    assert "dev, compared with HEAD: 1 to change, " in out
    assert out.count("\n  ~ ") == 1
    assert "\n  ~ security.istio.io/v1 PeerAuthentication istio-system/default\n" in out
    assert "-    mode: STRICT\n" in out
    assert "+    mode: PERMISSIVE\n" in out


def test_with_a_base_the_comment_of_a_pull_request_needs_no_cluster() -> None:
    with checkout("HEAD", ROOT) as folder:
        settings = folder / "Pulumi.dev.yaml"
        settings.write_text(settings.read_text() + "  service-mesh:mtlsMode: PERMISSIVE\n")
        done = subprocess.run(
            [sys.executable, "-m", "lab", "pr-preview", "--base", "HEAD"],
            cwd=folder,
            env={**os.environ, "KUBECONFIG": "/nonexistent"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not (folder / ".lab").exists()

    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("<!-- service-mesh preview: service-mesh/dev -->\n")
    assert "### dev: 1 to update" in done.stdout
    assert "❌ **namespaces-are-strict**" in done.stdout
    assert "-    mode: STRICT\n+    mode: PERMISSIVE\n" in done.stdout
