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
        self.asked: list[tuple[str, str | None]] = []

    def objects(self, *resources: str, namespace: str | None = None) -> list[Object]:
        self.asked += [(resource, namespace) for resource in resources]
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


def proxy(
    where: str, revision: str = "default", *, image: str = "", native: bool = False, **changes: Any
) -> Object:
    sidecar = [{"name": "istio-proxy", "image": image}] if image else []
    init, beside = (sidecar, []) if native else ([], sidecar)
    app = {"name": "app", "image": "shop/app:1.2.3"}
    made = obj("Pod", where, {"initContainers": init, "containers": [app, *beside]})
    made["metadata"] |= {"annotations": {"istio.io/rev": revision}, **changes}
    return made


def gateway(
    revision: str, label: str | None, direction: str = "ingressgateway", *, image: str = ""
) -> Object:
    own = {"istio.io/rev": label} if label else {}
    where = f"istio-system/istio-{direction}-1a2b"
    return proxy(where, revision, image=image, labels={"istio": direction, **own})


def tag(name: str, revision: str, stack: str | None = "mesh/dev") -> Object:
    made = obj("MutatingWebhookConfiguration", f"/istio-revision-tag-{name}", {})
    made["metadata"] |= {"labels": {"istio.io/tag": name, "istio.io/rev": revision}}
    if stack:
        made["metadata"]["annotations"] = {"service-mesh/stack": stack}
    return made


def labelled(name: str, revision: str) -> Object:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": {"istio.io/rev": revision}}}


def declared(
    version: str = "1.31.0",
    *names: str,
    serves: str | None = None,
    gateways: str | None = None,
    beside: str = "1.31.0",
    image_tag: str | None = None,
    **tags: str,
) -> upgrade.Istiods:
    return upgrade.Istiods(
        stack="mesh/dev",
        version=version,
        image_tag=image_tag,
        revisions=tuple(Revision(name=name, version=beside) for name in names),
        tags=tags,
        namespace="shop",
        namespace_revision=serves,
        gateway_revision=gateways,
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
        ({"image": "registry.example/pilot:1.31.2@sha256:ab12", "chart": "1.30.0"}, "1.31.2"),
        ({"image": "registry.example/pilot:stable", "chart": "1.0.0"}, None),
    ],
)
def test_the_release_that_runs_is_the_images_or_else_the_charts(
    changes: dict[str, str], found: str | None
) -> None:
    live = Live(istiod(**changes))
    assert upgrade.installed(cast("Cluster", live)).versions == {"default": found}


def test_every_istiod_is_found_and_nothing_else() -> None:
    other = istiod("1.9.0")
    other["metadata"] |= {"name": "grafana", "labels": {"app": "grafana"}}
    live = Live(istiod(), istiod("1.32.0", "canary"), other)
    found = upgrade.installed(cast("Cluster", live))
    assert found.versions == {"default": "1.31.0", "canary": "1.32.0"}
    assert found.tags == {}


def test_tags_are_found_with_whose_they_are() -> None:
    webhook = obj("MutatingWebhookConfiguration", "/istio-sidecar-injector", {})
    webhook["metadata"]["labels"] = {"istio.io/rev": "default"}
    live = Live(webhook, tag("stable", "default"), tag("prod", "canary", None))
    found = upgrade.installed(cast("Cluster", live))
    assert found.tags == {
        "stable": upgrade.Tag(revision="default", stack="mesh/dev"),
        "prod": upgrade.Tag(revision="canary", stack=None),
    }
    assert found.own_tags("mesh/dev") == {"stable"}


# another release in the place of an istiod


ISTIODS = ("deployments.apps", "istio-system")
TAGS = ("mutatingwebhookconfigurations.admissionregistration.k8s.io", None)


@pytest.mark.parametrize(
    ("after", "where"), [("1.31.0", "shop"), ("1.31.4", "shop"), ("1.32.0", None)]
)
def test_patches_and_the_next_minor_release_pass(
    after: str, where: str | None, warned: list[str]
) -> None:
    live = Live(istiod("1.31.2"))
    check(live, declared(after))
    assert warned == []
    assert live.asked == [ISTIODS, TAGS, ("pods", where)], "all pods are for another minor release"


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


# tags


def test_a_namespace_on_a_tag_belongs_to_the_istiod_that_the_tag_points_to(
    warned: list[str],
) -> None:
    live = Live(
        istiod(),
        istiod(revision="canary"),
        tag("stable", "default"),
        proxy("shop/new", "canary"),
        proxy("shop/old"),
    )
    check(live, declared("1.31.0", "canary", serves="stable", stable="canary"))
    [said] = warned
    assert said.startswith("namespace shop belongs to istiod canary, and 1 of its 2 proxies")
    assert "  shop/old: default\n" in said


def test_a_tag_that_points_to_the_default_istiod_needs_no_other(warned: list[str]) -> None:
    live = Live(istiod(), proxy("shop/web"))
    check(live, declared(serves="stable", stable="default"))
    assert warned == []


def test_an_istiod_that_a_tag_of_others_points_to_is_not_taken_away() -> None:
    live = Live(
        istiod(),
        istiod(revision="canary"),
        tag("prod", "canary", None),
        tag("blue", "canary", "mesh/other"),
        tag("green", "default", None),
        labelled("pay", "prod"),
    )
    assert refusal(live, declared()) == [
        "revisions is without canary",
        "  allowed: what leaves no proxy without its istiod; canary still has 0, and 0 other "
        "namespaces ask for it, and tags of others point to it:",
        "           tag prod: pay",
        "           tag blue: no namespace",
        "  fix:     pulumi config set --path 'revisions[0].name' canary && "
        "pulumi config set --path 'revisions[0].version' 1.31.0 && pulumi up",
        "           istioctl tag set prod --revision default --overwrite --context test",
        "           istioctl tag set blue --revision default --overwrite --context test",
        "           wait until that is done, then run this again without it",
    ]


def test_an_istiod_may_go_when_the_stacks_own_tag_is_moved_or_goes_with_it() -> None:
    live = Live(istiod(), istiod(revision="canary"), tag("stable", "canary"))
    check(live, declared(stable="default"))
    check(live, declared())


def test_a_tag_that_others_ask_for_stays() -> None:
    live = Live(
        istiod(),
        tag("stable", "default"),
        labelled("shop", "stable"),
        labelled("pay", "stable"),
        gateway("default", "stable"),
        proxy("other/web", labels={"istio.io/rev": "stable"}),
    )
    assert refusal(live, declared()) == [
        "revisionTags is without stable",
        "  allowed: what nobody else asks for: new pods would be born without a proxy:",
        "           namespace pay: istio.io/rev=stable",
        "           other/web: stable",
        "  fix:     pulumi config set --path revisionTags.stable default",
        "           kubectl --context test label namespace pay istio.io/rev=default --overwrite",
        "           the same label in the templates of these pods",
        "           then run this again without it",
    ]
    check(live, declared(stable="default"))


def test_a_tag_that_only_this_stack_asks_for_may_go() -> None:
    ours = labelled("shop", "stable"), gateway("default", "stable")
    check(Live(istiod(), tag("stable", "default"), *ours), declared())


@pytest.mark.parametrize(
    ("stack", "owner"), [(None, "somebody else"), ("mesh/other", "mesh/other")]
)
def test_a_tag_of_others_is_not_taken_over(stack: str | None, owner: str) -> None:
    said = refusal(Live(istiod(), tag("stable", "default", stack)), declared(stable="default"))
    assert said == [
        "revisionTags has stable",
        "  allowed: a tag that does not exist yet; this one points to default and was made by "
        f"{owner}",
        "  fix:     pulumi config rm --path revisionTags.stable, and another name for it, or "
        "istioctl tag remove stable --context test",
    ]


# gateways


def test_gateways_that_wait_for_a_restart_after_their_tag_was_moved_are_a_warning(
    warned: list[str],
) -> None:
    live = Live(
        istiod(),
        istiod(revision="canary"),
        gateway("default", "stable"),
        gateway("canary", "stable", "egressgateway"),
        # of somebody else, or not yet labelled, which the update itself does
        proxy("istio-system/theirs", labels={"istio": "theirs", "istio.io/rev": "stable"}),
        gateway("default", None),
    )
    check(live, declared("1.31.0", "canary", gateways="stable", stable="canary"))
    assert warned == [
        "the gateways belong to istiod canary, and 1 of their 2 proxies still ask another until "
        "they are restarted:\n"
        "  istio-system/istio-ingressgateway-1a2b: default\n"
        "  kubectl --context test -n istio-system rollout restart deployment istio-ingressgateway"
    ]


@pytest.mark.parametrize("wanted", [None, "canary"], ids=["back", "there"])
def test_gateways_whose_label_the_update_changes_are_no_warning(
    wanted: str | None, warned: list[str]
) -> None:
    here = gateway("canary", "canary") if wanted is None else gateway("default", None)
    live = Live(istiod(), istiod(revision="canary"), here)
    check(live, declared("1.31.0", "canary", gateways=wanted))
    assert warned == []


# proxies that were not restarted


def sidecar(version: str) -> str:
    return f"registry.example:5000/istio/proxyv2:{version}"


def test_proxies_older_than_their_istiod_are_a_warning_with_the_command(warned: list[str]) -> None:
    live = Live(
        istiod("1.31.2"),
        proxy("shop/new", image=sidecar("1.31.10-distroless")),
        proxy("shop/old", image=sidecar("1.31.2"), native=True),
        proxy("shop/older", image=sidecar("1.30.4")),
        proxy("shop/unknown", image=sidecar("stable")),
    )
    check(live, declared("1.31.10"))
    assert warned == [
        "namespace shop belongs to istiod default, and 2 of its 4 proxies are older than 1.31.10 "
        "until they are restarted:\n"
        "  shop/old: 1.31.2\n"
        "  shop/older: 1.30.4\n"
        "  kubectl --context test -n shop rollout restart deployment"
    ]


@pytest.mark.parametrize(
    ("image_tag", "warnings"), [("1.31.0-fips", 0), ("stable", 0), ("1.31.9", 1)]
)
def test_what_the_images_tag_says_is_what_proxies_become(
    image_tag: str, warnings: int, warned: list[str]
) -> None:
    live = Live(istiod("1.31.4"), proxy("shop/web", image=sidecar("1.31.0")))
    check(live, declared("1.31.4", image_tag=image_tag))
    assert len(warned) == warnings


@pytest.mark.parametrize(("label", "warnings"), [(None, 0), ("canary", 1)])
def test_gateways_without_a_label_follow_their_chart(
    label: str | None, warnings: int, warned: list[str]
) -> None:
    revision = label or "default"
    live = Live(
        istiod("1.31.0"),
        istiod("1.31.0", "canary"),
        gateway(revision, label, image=sidecar("1.31.0")),
    )
    check(live, declared("1.31.4", "canary", gateways=label, beside="1.31.4"))
    assert len(warned) == warnings


def test_a_revisions_proxies_are_held_against_its_own_release(warned: list[str]) -> None:
    live = Live(
        istiod("1.31.0"),
        istiod("1.32.0", "canary"),
        proxy("shop/new", "canary", image=sidecar("1.31.0")),
        proxy("shop/late", image=sidecar("1.31.0")),
    )
    check(live, declared("1.31.0", "canary", serves="canary", beside="1.32.0"))
    late, older = warned
    assert "still ask another" in late
    assert "shop/late: default" in late
    assert "are older than 1.32.0" in older
    assert "shop/new: 1.31.0" in older
    assert "shop/late" not in older, "one restart does both"


def test_a_minor_release_that_leaves_proxies_two_behind_is_refused_wherever_they_are() -> None:
    live = Live(
        istiod("1.31.2"),
        istiod("1.31.2", "canary"),
        proxy("shop/fine", image=sidecar("1.31.0")),
        proxy("other/web", image=sidecar("1.30.4")),
        proxy("pay/web", image=sidecar("1.29.0"), native=True),
        proxy("pay/beside", "canary", image=sidecar("1.30.4")),
        proxy("pay/unknown", image=sidecar("stable")),
    )
    assert refusal(live, declared("1.32.0", "canary", beside="1.31.2")) == [
        'istioVersion is "1.32.0"',
        "  allowed: 1.31.Z while 2 proxies are older than that: Istio supports proxies that are "
        "one minor release behind their istiod:",
        "           other/web: 1.30.4",
        "           pay/web: 1.29.0",
        "  fix:     kubectl --context test -n other rollout restart deployment",
        "           kubectl --context test -n pay rollout restart deployment",
        "           wait until that is done, then run this again",
    ]
    check(live, declared("1.31.9", "canary", beside="1.31.2"))


def test_a_revision_goes_no_further_than_its_own_proxies_let_it() -> None:
    live = Live(
        istiod("1.31.2"),
        istiod("1.31.2", "canary"),
        proxy("pay/web", "canary", image=sidecar("1.30.4")),
        proxy("pay/db", image=sidecar("1.30.4")),
    )
    said = refusal(live, declared("1.31.2", "canary", beside="1.32.0"))
    assert said[0] == 'revisions[0].version is "1.32.0"'
    assert "           pay/web: 1.30.4" in said
    assert not [line for line in said if "pay/db" in line]


# what serves what


@pytest.mark.parametrize(
    ("serves", "gateways", "said"),
    [
        (None, None, {"default": "tag stable, namespace shop, gateways", "canary": None}),
        ("canary", None, {"default": "tag stable, gateways", "canary": "namespace shop"}),
        ("canary", "canary", {"default": "tag stable", "canary": "namespace shop, gateways"}),
        ("stable", "stable", {"default": "tag stable, namespace shop, gateways", "canary": None}),
    ],
)
def test_the_output_says_which_istiod_serves_what(
    serves: str | None, gateways: str | None, said: dict[str, str | None]
) -> None:
    wanted = declared("1.31.0", "canary", serves=serves, gateways=gateways, stable="default")
    assert upgrade.outputs(wanted, gateways=True) == {
        revision: f"1.31.0: {what or 'nothing of this stack'}" for revision, what in said.items()
    }


def test_the_output_names_no_gateways_where_there_are_none() -> None:
    wanted = declared("1.31.0", "canary", serves="canary")
    assert upgrade.outputs(wanted, gateways=False)["default"] == "1.31.0: nothing of this stack"
