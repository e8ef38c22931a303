"""Asks helm and kubectl, by reading commands only, for the two manifests that are compared."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml

from review.preview import BadInputError, Inputs, mapping
from tlscheck.stack import HIDDEN

NOT_FOUND = 127  # a shell's exit code for a command that does not exist


Done = subprocess.CompletedProcess[str]
Runner = Callable[[Sequence[str], str], Done]
"""Runs a command with this standard input. Tests give their own."""


class RenderError(Exception):
    """A manifest cannot be had; the message is the tool's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where manifests come from."""

    runner: Runner
    cluster: tuple[str, ...] = ()
    """helm's flags for the cluster; none when there is no cluster to ask."""
    kube_version: str = ""
    """The API server's version; "" for the one helm was built with."""


def run(argv: Sequence[str], stdin: str) -> Done:
    """The real runner. A command is given two minutes, as a chart may have to be downloaded."""
    try:
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=False,
        )
    except FileNotFoundError:
        return Done(argv, NOT_FOUND, "", f"{argv[0]} does not exist")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Done(argv, 1, "", str(error))


def message(done: Done) -> str:
    """What a failed command says, in one printable line without the warnings before it."""
    last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    text = " ".join((done.stderr.partition("Error: ")[2] or last).split())
    return "".join(c for c in text if c.isprintable())


def _helm(source: Source, *argv: str, stdin: str = "") -> Done:
    done = source.runner(("helm", *argv), stdin)
    if done.returncode == NOT_FOUND:
        raise BadInputError("helm is not on PATH; see https://helm.sh/docs/intro/install")
    return done


def connect(runner: Runner, context: str | None, kubeconfig: str) -> tuple[Source, str]:
    """The source of manifests, and what to say about the cluster.

    Without a context the cluster is not asked: never whichever context happens to be current.
    """
    if not context:
        return Source(runner=runner), "no cluster asked (--context)"
    file = ("--kubeconfig", kubeconfig) if kubeconfig else ()
    ask = ("kubectl", "version", "-o", "json", "--request-timeout=10s", "--context", context, *file)
    done = runner(ask, "")
    if done.returncode not in {0, NOT_FOUND}:
        return Source(runner=runner), f"cluster {context} does not answer: {message(done)}"
    server = mapping(mapping(yaml.safe_load(done.stdout)).get("serverVersion"))
    version = str(server.get("gitVersion") or "")
    flags = ("--kube-context", context, *file)
    return Source(runner=runner, cluster=flags, kube_version=version), f"cluster {context}"


def live(source: Source, release: Inputs) -> str | None:
    """The manifest that Helm keeps in the cluster, or None if there is no such release.

    Raises:
        RenderError: It cannot be read.
    """
    where = ("-n", release.namespace, *source.cluster)
    done = _helm(source, "get", "manifest", release.name, *where)
    if done.returncode and "release: not found" not in done.stderr:
        raise RenderError(message(done))
    return None if done.returncode else done.stdout


def template(source: Source, release: Inputs, *, upgrade: bool) -> str:
    """The manifest that Helm would apply, without hooks, as Helm keeps those out of it too.

    Raises:
        RenderError: Helm or the post-renderer refuses, or an input is not known yet.
    """
    fields = {release.name, release.namespace, release.chart, release.version, release.repo}
    if fields & set(HIDDEN) or not isinstance(release.values, dict):
        raise RenderError("its chart or all its values are secret or only known to `pulumi up`")
    argv = ["template", release.name, release.chart, "-n", release.namespace, "--no-hooks"]
    argv += ["--version", release.version] if release.version else []
    argv += ["--repo", release.repo] if release.repo else []
    argv += ["--kube-version", source.kube_version] if source.kube_version else []
    # an upgrade never touches a chart's crds/ folder, and the manifest of a release leaves it out
    argv += ["--is-upgrade"] if upgrade else [] if release.skip_crds else ["--include-crds"]
    # by standard input, so that no file with values is left behind; JSON is YAML
    done = _helm(source, *argv, "-f", "-", stdin=json.dumps(release.values))
    if done.returncode == 0 and release.postrender:
        # not by helm's own flag: that takes a command in Helm 3, a plugin's name in Helm 4
        done = source.runner((release.postrender,), done.stdout)
    if done.returncode:
        raise RenderError(message(done))
    return done.stdout
