"""README.md's table of settings is the one that Pulumi.yaml gives."""

import pytest

from settings import declarations
from tools.settings_table import BEGIN, END, README, embed, table


def test_readme_has_the_table_of_pulumi_yaml() -> None:
    readme = README.read_text(encoding="utf-8")
    assert readme == embed(readme), "run: python -m tools.settings_table --write"


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [one.key for one in declarations()]


def test_every_row_has_four_cells() -> None:
    for row in table().splitlines():
        assert row.count("|") == 5, f"a bar would start another cell: {row}"


def test_writing_replaces_an_old_table_and_nothing_else() -> None:
    readme = f"# Title\n{BEGIN}\nold\n{END}\nmore\n"
    assert embed(readme) == f"# Title\n{BEGIN}\n\n{table()}\n\n{END}\nmore\n"


@pytest.mark.parametrize(
    "readme",
    ["# Title\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"],
    ids=["no-markers", "no-end", "wrong-order", "two-begins"],
)
def test_a_readme_without_its_markers_is_refused(readme: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        embed(readme)
