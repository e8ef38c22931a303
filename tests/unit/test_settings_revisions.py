"""Which releases of Istio the settings take, and what they say about everything else."""

from __future__ import annotations

from typing import Any

import pytest

from components.control_plane import Revision
from settings import SettingsError
from tests.unit.conftest import Load


def one(**changes: object) -> dict[str, object]:
    """A sound revision with some fields changed; None takes a field away."""
    item = {"name": "canary", "version": "1.31.1", **changes}
    return {field: value for field, value in item.items() if value is not None}


def refusal(load: Load, **values: Any) -> list[str]:
    """The lines of the one problem there is."""
    with pytest.raises(SettingsError) as error:
        load(**values)
    assert len(error.value.problems) == 1, str(error.value)
    return str(error.value.problems[0]).splitlines()


def test_without_revisions_the_default_istiod_has_the_namespace(load: Load) -> None:
    settings = load()
    assert (settings.revisions, settings.namespace_revision) == ((), None)
    assert (settings.revision_tags, settings.gateway_revision) == ({}, None)


def test_revisions_are_read_in_their_order(load: Load) -> None:
    settings = load(
        revisions=[one(name="1-32-0", version="1.32.0"), one(imageTag="1.31.1-debug")],
        namespaceRevision="1-32-0",
    )
    assert settings.revisions == (
        Revision(name="1-32-0", version="1.32.0"),
        Revision(name="canary", version="1.31.1", image_tag="1.31.1-debug"),
    )
    assert settings.namespace_revision == "1-32-0"


def test_tags_point_to_revisions_or_to_the_default_istiod(load: Load) -> None:
    settings = load(
        revisions=[one()],
        revisionTags={"stable": "default", "next": "canary"},
        namespaceRevision="stable",
        gatewayRevision="next",
    )
    assert settings.revision_tags == {"stable": "default", "next": "canary"}
    assert (settings.namespace_revision, settings.gateway_revision) == ("stable", "next")


def test_a_tag_may_point_to_a_revision_of_digits(load: Load) -> None:
    settings = load(revisions=[one(name=132)], revisionTags={"stable": 132})
    assert settings.revision_tags == {"stable": "132"}


def test_a_name_and_a_tag_of_digits_are_text_again(load: Load) -> None:
    """`pulumi config set --path` makes numbers of them."""
    [found] = load(revisions=[one(name=132, imageTag=20261123)]).revisions
    assert (found.name, found.image_tag) == ("132", "20261123")


@pytest.mark.parametrize("version", ["1.30.0", "1.31.0", "1.32.4"])
def test_a_revision_may_be_one_minor_release_away(load: Load, version: str) -> None:
    [found] = load(istioVersion="1.31.1", revisions=[one(version=version)]).revisions
    assert found.version == version


LABEL = "1 to 46 small letters, digits and dashes, no dash first or last"
RELEASE = "X.Y.Z, 1.30.0 or newer"
SET = "pulumi config set --path"


@pytest.mark.parametrize(
    ("item", "key", "allowed", "fix"),
    [
        (one(name=None), "name", LABEL, f"{SET} 'revisions[0].name' 1-31-1"),
        (one(name="1.31.1"), "name", LABEL, f"{SET} 'revisions[0].name' 1-31-1"),
        (one(name="x" * 47), "name", LABEL, f"{SET} 'revisions[0].name' {'x' * 46}"),
        (
            one(name="default"),
            "name",
            "another name: default is the istiod of istioVersion",
            f"{SET} 'revisions[0].name' canary",
        ),
        (one(version=None), "version", RELEASE, f"{SET} 'revisions[0].version' 1.31.1"),
        (one(version=1.31), "version", RELEASE, f"{SET} 'revisions[0].version' 1.31.1"),
        (one(version="1.29.9"), "version", RELEASE, f"{SET} 'revisions[0].version' 1.31.1"),
        (
            one(version="1.33.0"),
            "version",
            "at most one minor release from istioVersion, 1.31.1",
            f"{SET} 'revisions[0].version' 1.31.1",
        ),
        (
            one(imageTag="a b"),
            "imageTag",
            "letters, digits, dots, dashes and underscores, or left out",
            "pulumi config rm --path 'revisions[0].imageTag'",
        ),
        (
            one(verison="1.31.1"),
            "verison",
            "did you mean version? There are name, version, imageTag",
            "pulumi config rm --path 'revisions[0].verison' && "
            f"{SET} 'revisions[0].version' 1.31.1",
        ),
    ],
)
def test_a_revision_that_cannot_be_is_refused(
    load: Load, item: dict[str, object], key: str, allowed: str, fix: str
) -> None:
    said = refusal(load, revisions=[item])
    assert said[0].startswith(f"revisions[0].{key} is ")
    assert said[1:] == [f"  allowed: {allowed}", f"  fix:     {fix}"]


def test_what_is_no_object_is_refused(load: Load) -> None:
    said = refusal(load, revisions=["1.31.1"])
    assert said[0] == 'revisions[0] is "1.31.1"'
    assert said[1] == "  allowed: {name: NAME, version: X.Y.Z, imageTag: TAG or none}"
    assert said[2].startswith("  fix:     pulumi config rm --path 'revisions[0]' && ")


def test_two_revisions_of_one_name_are_refused(load: Load) -> None:
    assert refusal(load, revisions=[one(), one(version="1.32.0")]) == [
        'revisions[1].name is "canary"',
        "  allowed: every name once",
        "  fix:     pulumi config rm --path 'revisions[1]'",
    ]


STABLE = "pulumi config set --path revisionTags.stable default"


@pytest.mark.parametrize(
    ("tag", "revision", "allowed", "fix"),
    [
        ("stable", "canaries", "default, or one of revisions: canary", "canary"),
        ("stable", "nothing", "default, or one of revisions: canary", "default"),
        ("stable", "", "default, or one of revisions: canary", "default"),
        ("stable", ["canary"], "default, or one of revisions: canary", "canary"),
        (
            "default",
            "canary",
            "another name: default is what the istiod of istioVersion serves",
            None,
        ),
        (
            "canary",
            "default",
            "another name: canary is one of revisions, and its own istiod serves it",
            None,
        ),
        (
            "Stable",
            "default",
            "a name of 1 to 63 small letters, digits and dashes, no dash first or last",
            None,
        ),
        (
            "x" * 64,
            "default",
            "a name of 1 to 63 small letters, digits and dashes, no dash first or last",
            None,
        ),
    ],
)
def test_a_tag_that_cannot_be_is_refused(
    load: Load, tag: str, revision: object, allowed: str, fix: str | None
) -> None:
    said = refusal(load, revisions=[one()], revisionTags={tag: revision})
    assert said[0].startswith(f"revisionTags.{tag} is ")
    mend = f"{SET} revisionTags.{tag} {fix}"
    away = f"pulumi config rm --path revisionTags.{tag} && {STABLE}"
    assert said[1:] == [f"  allowed: {allowed}", f"  fix:     {mend if fix else away}"]


def test_tags_that_are_no_object_are_refused(load: Load) -> None:
    assert refusal(load, revisionTags=["stable"]) == [
        'revisionTags is "[\\"stable\\"]"',
        "  allowed: an object {TAG: REVISION}",
        f"  fix:     pulumi config rm revisionTags && {STABLE}",
    ]


@pytest.mark.parametrize("key", ["namespaceRevision", "gatewayRevision"])
@pytest.mark.parametrize(
    ("given", "value", "there", "fix"),
    [
        ({}, "canary", "none, or of revisionTags: none", "''"),
        ({"revisions": [one()]}, "canaries", "canary, or of revisionTags: none", "canary"),
        ({"revisions": [one()]}, "default", "canary, or of revisionTags: none", "''"),
        (
            {"revisionTags": {"stable": "default"}},
            "table",
            "none, or of revisionTags: stable",
            "stable",
        ),
    ],
)
def test_what_asks_for_an_unknown_revision_is_refused(
    load: Load, key: str, given: dict[str, Any], *, value: str, there: str, fix: str
) -> None:
    assert refusal(load, **given, **{key: value}) == [
        f'{key} is "{value}"',
        f"  allowed: empty (the default istiod), one of revisions: {there}",
        f"  fix:     pulumi config set {key} {fix}",
    ]


@pytest.mark.parametrize("key", ["namespaceRevision", "gatewayRevision"])
def test_who_asks_for_a_bad_tag_is_not_blamed(load: Load, key: str) -> None:
    said = refusal(load, revisionTags={"Stable": "default"}, **{key: "Stable"})
    assert said[0].startswith("revisionTags.Stable")


def test_a_tag_is_not_blamed_for_a_bad_revision(load: Load) -> None:
    said = refusal(load, revisions=[one(name="Canary")], revisionTags={"stable": "Canary"})
    assert said[0] == 'revisions[0].name is "Canary"'


def test_a_namespace_is_not_blamed_for_a_bad_revision(load: Load) -> None:
    said = refusal(load, revisions=[one(name="Canary")], namespaceRevision="canary")
    assert said[0] == 'revisions[0].name is "Canary"'


def test_a_revision_is_not_blamed_for_a_bad_default(load: Load) -> None:
    said = refusal(load, istioVersion="1.31", revisions=[one()])
    assert said[0] == 'istioVersion is "1.31"'
