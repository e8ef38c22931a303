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


@pytest.mark.parametrize(
    ("revisions", "value", "there", "fix"),
    [
        ([], "canary", "none", "''"),
        ([one()], "canaries", "canary", "canary"),
        ([one()], "default", "canary", "''"),
    ],
)
def test_a_namespace_of_an_unknown_revision_is_refused(
    load: Load, revisions: list[object], value: str, there: str, fix: str
) -> None:
    assert refusal(load, revisions=revisions, namespaceRevision=value) == [
        f'namespaceRevision is "{value}"',
        f"  allowed: empty (the default istiod), or one of revisions: {there}",
        f"  fix:     pulumi config set namespaceRevision {fix}",
    ]


def test_a_namespace_is_not_blamed_for_a_bad_revision(load: Load) -> None:
    said = refusal(load, revisions=[one(name="Canary")], namespaceRevision="canary")
    assert said[0] == 'revisions[0].name is "Canary"'


def test_a_revision_is_not_blamed_for_a_bad_default(load: Load) -> None:
    said = refusal(load, istioVersion="1.31", revisions=[one()])
    assert said[0] == 'istioVersion is "1.31"'
