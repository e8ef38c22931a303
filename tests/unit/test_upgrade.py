"""The istiods that are declared, held against those that run and against the proxies they have."""

from __future__ import annotations

from typing import Any, cast

import pulumi
import pytest

import upgrade
from components.cluster import Cluster
from components.control_plane import Revision
from components.kinds import ClusterAccess
from tests.unit.tlscheck_objects import Object, obj

ACCESS = ClusterAccess(kubeconfig="", context="test")


class Live:
    """A cluster with these objects."""

    def __init__(self, *objects: Object) -> None:
        self.there = objects
        self.asked: list[str] = []

    def objects(self, *resources: str, namespace: str | None = None) -> list[Object]:
        self.asked += resources
        kinds = [resource.partition(".")[0].removesuffix("s") for resource in resources]
        return [
            one
            for one in self.there
            if one["kind"].lower() in kinds
            and namespace in (None, one["metadata"].get("namespace"))
        ]


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the program warns of."""
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    return said


def istiod(
    version: str = "1.31.0", revision: str = "default", *, image: str = "", chart: str = "1.0.0"
) -> Object:
    image = image or f"registry.istio.io/release/pilot:{version}"
    labels = {"app": "istiod", "istio.io/rev": revision, "app.kubernetes.io/version": chart}
    name = "istiod" if revision == "default" else f"istiod-{revision}"
    containers = [{"name": "discovery", "image": image}]
    made = obj(
        "Deployment", f"istio-system/{name}", {"template": {"spec": {"containers": containers}}}
    )
    made["metadata"]["labels"] = labels
    return made


def proxy(where: str, revision: str = "default", **changes: Any) -> Object:
    made = obj("Pod", where, {})
    made["metadata"] |= {"annotations": {"istio.io/rev": revision}, **changes}
    return made


def labelled(name: str, revision: str) -> Object:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": {"istio.io/rev": revision}}}


def declared(
    version: str = "1.31.0", *names: str, serves: str | None = None, beside: str = "1.31.0"
) -> upgrade.Istiods:
    return upgrade.Istiods(
        version=version,
        revisions=tuple(Revision(name=name, version=beside) for name in names),
        namespace="shop",
        namespace_revision=serves,
    )


def check(live: Live, wanted: upgrade.Istiods) -> None:
    cluster = cast("Cluster", live)
    upgrade.check(cluster, ACCESS, wanted, upgrade.installed(cluster))


def refusal(live: Live, wanted: upgrade.Istiods) -> list[str]:
    with pytest.raises(upgrade.UpgradeError) as error:
        check(live, wanted)
    return str(error.value).splitlines()


# which release runs


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"version": "1.31.2"}, "1.31.2"),
        ({"image": "registry.example:5000/istio/pilot:1.31.2-distroless"}, "1.31.2"),
        ({"image": "registry.example/pilot:1.31.2", "chart": "1.30.0"}, "1.31.2"),
        ({"image": "registry.example/pilot@sha256:ab12", "chart": "1.30.0"}, "1.30.0"),
        ({"image": "registry.example/pilot:stable", "chart": "1.0.0"}, None),
    ],
)
def test_the_release_that_runs_is_the_images_or_else_the_charts(
    changes: dict[str, str], found: str | None
) -> None:
    live = Live(istiod(**changes))
    assert upgrade.installed(cast("Cluster", live)) == {"default": found}


def test_every_istiod_is_found_and_nothing_else() -> None:
    other = istiod("1.9.0")
    other["metadata"] |= {"name": "grafana", "labels": {"app": "grafana"}}
    live = Live(istiod(), istiod("1.32.0", "canary"), other)
    assert upgrade.installed(cast("Cluster", live)) == {"default": "1.31.0", "canary": "1.32.0"}


# another release in the place of an istiod


@pytest.mark.parametrize("after", ["1.31.0", "1.31.4", "1.32.0"])
def test_patches_and_the_next_minor_release_pass(after: str, warned: list[str]) -> None:
    live = Live(istiod("1.31.2"))
    check(live, declared(after))
    assert warned == []
    assert live.asked == ["deployments.apps"], "a stack without revisions costs one request"


def test_an_istiod_that_is_not_there_or_says_no_release_is_not_judged() -> None:
    check(Live(), declared("1.40.0"))
    check(Live(istiod(image="pilot:stable")), declared("1.40.0"))


def test_a_skipped_minor_release_is_refused_with_the_next_one() -> None:
    assert refusal(Live(istiod("1.31.2")), declared("1.33.0")) == [
        'istioVersion is "1.33.0"',
        "  allowed: 1.31.Z or 1.32.Z: the istiod that runs is 1.31.2, and Istio goes up one minor "
        "release at a time",
        "  fix:     pulumi config set istioVersion 1.32.0 && pulumi up, restart the proxies, then "
        "the next one",
    ]


def test_an_older_minor_release_is_refused_with_an_istiod_beside() -> None:
    assert refusal(Live(istiod("1.31.2")), declared("1.30.4")) == [
        'istioVersion is "1.30.4"',
        "  allowed: 1.31.Z or 1.32.Z: the istiod that runs is 1.31.2, and its proxies would be "
        "newer than their istiod, which Istio does not support",
        "  fix:     pulumi config set istioVersion 1.31.2",
        "           and for pods that need 1.30.4 an istiod beside it: "
        "pulumi config set --path 'revisions[0].name' 1-30-4 && "
        "pulumi config set --path 'revisions[0].version' 1.30.4",
    ]


def test_a_revisions_release_is_judged_by_its_own_istiod() -> None:
    live = Live(istiod("1.32.0"), istiod("1.30.0", "a"), istiod("1.32.0", "b"))
    wanted = declared("1.32.0", "a", "b", beside="1.32.0")
    said = refusal(live, wanted)
    assert said[0] == 'revisions[0].version is "1.32.0"'
    assert "pulumi config set --path 'revisions[0].version' 1.31.0" in said[2]
    assert not [line for line in said if "revisions[1]" in line]


# an istiod that goes


def test_an_istiod_with_proxies_is_not_taken_away() -> None:
    live = Live(
        istiod(),
        istiod("1.31.1", "canary"),
        proxy("shop/web", "canary"),
        proxy("other/web", "canary"),
        proxy("shop/db"),
        labelled("shop", "canary"),
    )
    assert refusal(live, declared()) == [
        "revisions is without canary",
        "  allowed: what leaves no proxy without its istiod; canary still has 2, and 0 other "
        "namespaces ask for it:",
        "           other/web: canary",
        "           shop/web: canary",
        "  fix:     pulumi config set --path 'revisions[0].name' canary && "
        "pulumi config set --path 'revisions[0].version' 1.31.1 && pulumi up",
        "           kubectl --context test -n other rollout restart deployment",
        "           kubectl --context test -n shop rollout restart deployment",
        "           wait until that is done, then run this again without it",
    ]


def test_an_istiod_that_another_namespace_asks_for_is_not_taken_away() -> None:
    said = refusal(
        Live(istiod(), istiod(revision="canary"), labelled("other", "canary")), declared()
    )
    assert "           namespace other: istio.io/rev=canary" in said
    assert (
        "           kubectl --context test label namespace other istio.io/rev- "
        "istio-injection=enabled" in said
    )


def test_an_istiod_that_nobody_has_may_go(warned: list[str]) -> None:
    gone = istiod(revision="canary")
    live = Live(
        istiod(),
        gone,
        # its own pod says so in a label
        obj("Pod", "istio-system/istiod-canary", {}),
        proxy("shop/leaving", "canary", deletionTimestamp="2026-01-01T00:00:00Z"),
        {**proxy("shop/job", "canary"), "status": {"phase": "Succeeded"}},
        proxy("shop/web"),
        # labelled anew in the same update
        labelled("shop", "canary"),
        labelled("other", "default"),
    )
    check(live, declared())
    assert warned == []


def test_many_proxies_are_counted() -> None:
    many = [proxy(f"shop/web-{index:02}", "canary") for index in range(25)]
    said = refusal(Live(istiod(), istiod(revision="canary"), *many), declared())
    assert "           shop/web-19: canary" in said
    assert "           and 5 more" in said
    assert "canary still has 25" in said[1]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    live = Live(istiod("1.29.0"), istiod(revision="canary"), proxy("shop/web", "canary"))
    said = refusal(live, declared("1.31.0"))
    assert 'istioVersion is "1.31.0"' in said
    assert "revisions is without canary" in said


# proxies that stay behind


def test_proxies_of_another_istiod_are_a_warning_with_the_command(warned: list[str]) -> None:
    live = Live(
        istiod(),
        istiod(revision="canary"),
        proxy("shop/new", "canary"),
        proxy("shop/old"),
        proxy("other/old"),
    )
    check(live, declared("1.31.0", "canary", serves="canary"))
    assert warned == [
        "namespace shop belongs to istiod canary, and 1 of its 2 proxies still ask another until "
        "they are restarted:\n"
        "  shop/old: default\n"
        "  kubectl --context test -n shop rollout restart deployment"
    ]


def test_the_way_back_warns_likewise(warned: list[str]) -> None:
    live = Live(istiod(), istiod(revision="canary"), proxy("shop/new", "canary"))
    check(live, declared("1.31.0", "canary"))
    [said] = warned
    assert "belongs to istiod default" in said
    assert "shop/new: canary" in said


def test_when_all_have_gone_over_nobody_is_warned(warned: list[str]) -> None:
    live = Live(istiod(), istiod(revision="canary"), proxy("shop/new", "canary"))
    check(live, declared("1.31.0", "canary", serves="canary"))
    assert warned == []


# what serves what


@pytest.mark.parametrize(
    ("serves", "gateways", "said"),
    [
        (
            None,
            True,
            {
                "default": "1.31.0: namespace shop, gateways",
                "canary": "1.31.0: nothing of this stack",
            },
        ),
        ("canary", True, {"default": "1.31.0: gateways", "canary": "1.31.0: namespace shop"}),
        (
            "canary",
            False,
            {"default": "1.31.0: nothing of this stack", "canary": "1.31.0: namespace shop"},
        ),
    ],
)
def test_the_output_says_which_istiod_serves_what(
    serves: str | None, said: dict[str, str], *, gateways: bool
) -> None:
    wanted = declared("1.31.0", "canary", serves=serves)
    assert upgrade.outputs(wanted, gateways=gateways) == said
