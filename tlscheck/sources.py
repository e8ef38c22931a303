"""Where objects come from: manifests and a live cluster (Pulumi's documents: `tlscheck.stack`)."""

from __future__ import annotations

import json
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tlscheck.documents import BadInputError, Documents, documents, items, mapping, printable
from tlscheck.rows import Warning

Json = dict[str, Any]
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[bytes]"]
KUBECTL_TIMEOUT_S = 120
KINDS = (
    *("namespaces", "pods", "services", "endpoints", "endpointslices.discovery.k8s.io"),
    *("deployments.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "cronjobs.batch"),
    *("peerauthentications.security.istio.io", "destinationrules.networking.istio.io"),
    *("serviceentries.networking.istio.io", "workloadentries.networking.istio.io"),
    *("sidecars.networking.istio.io", "virtualservices.networking.istio.io"),
)
"""What is asked of a live cluster: no secret, and no ConfigMap but Istio's."""


@dataclass
class Found:
    """What the sources hold."""

    objects: list[Json] = field(default_factory=list)
    notes: list[Warning] = field(default_factory=list)
    mesh: Json | None = None
    """MeshConfig in the values of an istiod release."""
    ambient: bool = False
    """An istiod among the objects runs with ambient enabled."""

    def note(self, code: str, subject: str, text: str) -> None:
        """Remember what the sources do not show."""
        self.notes.append(Warning(code=code, subject=subject, text=text))


def add(found: Found, document: object, where: str) -> None:
    """Take the objects of one document: an object, a List of them, or nothing.

    Raises:
        BadInputError: The document is neither.
    """
    if document is not None and not isinstance(document, dict | list):
        raise BadInputError(f"{where}: not Kubernetes objects but {printable(document)[:40]!r}")
    queue: deque[Any] = deque([document])
    opened_lists: set[int] = set()
    while queue:
        item = queue.popleft()
        kind = item.get("kind") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind.endswith("List") and "items" in item:
            item = items(item["items"])
        if isinstance(item, list):
            # aliases of aliases could make billions out of one page
            if id(item) not in opened_lists:
                opened_lists.add(id(item))
                queue.extendleft(reversed(item))
        elif kind in ("Secret", "CustomResourceDefinition"):
            found.objects.append({key: item.get(key) for key in ("apiVersion", "kind")})
        elif isinstance(item, dict):
            found.objects.append(item)
        elif item is not None:
            found.note("NOT_AN_OBJECT", where, f"{printable(item)[:40]} is no object: ignored")


def read_files(found: Found, paths: Iterable[str], stdin: BinaryIO) -> None:
    """Take the objects of files, of the manifests in folders, and of standard input (`-`).

    Raises:
        BadInputError: One cannot be read.
    """
    for name in paths:
        if not name:
            raise BadInputError("-f: the path is empty; the folder one is in is -f .")
        path, files = Path(name), [name]
        if name != "-" and path.is_dir():
            files = sorted(
                str(f) for f in path.rglob("*") if f.suffix in (".yaml", ".yml", ".json")
            )
            if not files:
                raise BadInputError(f"{name}: no .yaml, .yml or .json file in this folder")
        for file in files:
            with opened(file, stdin) as stream:
                for document in documents(stream):
                    add(found, document, file)


@contextmanager
def opened(name: str, stdin: BinaryIO) -> Iterator[BinaryIO]:
    """A file or standard input (`-`); what goes wrong while it is read names it.

    Raises:
        BadInputError: It cannot be read.
    """
    try:
        with nullcontext(stdin) if name == "-" else Path(name).open("rb") as stream:
            yield stream
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{printable(name)}: {reason}") from error
    except BadInputError as error:
        raise BadInputError(f"{printable(name)}: {error}") from error


def read_cluster(found: Found, words: Sequence[str], run: Run | None = None) -> None:
    """Take the objects of a live cluster, with kubectl.

    Raises:
        BadInputError: kubectl is missing, refused or cannot reach the cluster.
    """
    run = run or _run
    base = ["kubectl", *words]
    get = [*base, "get", ",".join(KINDS), "--all-namespaces", "--output=json"]
    done = run(get)
    if done.returncode and b"have a resource type" in done.stderr:
        listed = run([*base, "api-resources", "--verbs=list", "--output=name"]).stdout.decode()
        known = set(listed.split())
        get[len(base) + 1] = ",".join(kind for kind in KINDS if kind in known)
        missing = [kind for kind in KINDS if kind not in known]
        found.note("CRD_MISSING", "cluster", f"it has no {', '.join(missing)}")
        done = run(get)
    add(found, _answer(done), "kubectl get")
    maps = [*base, "get", "configmaps", "--all-namespaces", "--output=json"]
    add(found, _answer(run([*maps, "--field-selector=metadata.name=istio"])), "kubectl get")


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(argv, capture_output=True, timeout=KUBECTL_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise BadInputError("kubectl is not on the PATH; give manifests with -f instead") from error
    except subprocess.TimeoutExpired as error:
        raise BadInputError(f"the cluster did not answer in {KUBECTL_TIMEOUT_S} seconds") from error


def _answer(done: subprocess.CompletedProcess[bytes]) -> object:
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise BadInputError(f"kubectl: {printable(lines[-1])}; or give manifests with -f")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise BadInputError(f"kubectl's answer is not JSON: {error}") from error


# --- settings of the mesh that are among the objects -------------------------------------------


def mesh_config(found: Found) -> Json:
    """The MeshConfig of the ConfigMap `istio`, else that of an istiod release, else nothing.

    Raises:
        BadInputError: The ConfigMap does not hold YAML.
    """
    maps = [o for o in found.objects if o.get("kind") == "ConfigMap"]
    named = [(mapping(o.get("metadata")), mapping(o.get("data")).get("mesh")) for o in maps]
    texts = [(m.get("namespace"), t) for m, t in named if m.get("name") == "istio" and t]
    for namespace, text in texts:
        where = f"ConfigMap {namespace}/istio"
        if not isinstance(text, str):
            raise BadInputError(f"{where}: its `mesh` is not text")
        try:
            settings = mapping(next(Documents().read(text.encode(errors="replace")), None))
        except BadInputError as error:
            raise BadInputError(f"{where}: {error}") from error
        if namespace == settings.get("rootNamespace", "istio-system") or len(texts) == 1:
            return settings
    return found.mesh or {}


def ambient_enabled(found: Found) -> bool:
    """Whether an istiod among the objects says that it runs with ambient enabled."""
    for item in found.objects:
        meta = mapping(item.get("metadata"))
        if item.get("kind") == "Deployment" and str(meta.get("name")).startswith("istiod"):
            spec = mapping(mapping(mapping(item.get("spec")).get("template")).get("spec"))
            for container in map(mapping, items(spec.get("containers"))):
                for variable in map(mapping, items(container.get("env"))):
                    if variable.get("name") == "PILOT_ENABLE_AMBIENT":
                        return str(variable.get("value")).lower() == "true"
    return found.ambient
