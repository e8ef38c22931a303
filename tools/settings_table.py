"""README.md's table of settings, made from Pulumi.yaml.

`python -m tools.settings_table` prints it; with `--write` it goes between README.md's markers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from settings import declarations

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- settings:begin -->"
END = "<!-- settings:end -->"


def table() -> str:
    """The table: one row per setting, in the order of Pulumi.yaml."""
    rows = ["| Setting | Type | Default | What it does |", "|---|---|---|---|"]
    for one in declarations():
        default = f"`{one.default}`" if one.default else "empty"
        rows.append(f"| `{one.key}` | {one.type} | {default} | {one.description} |")
    return "\n".join(rows)


def embed(readme: str) -> str:
    """The README with the table as it must be.

    Raises:
        ValueError: The two markers are not there, once each and in this order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"README.md needs {BEGIN} and then {END}, once each")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(embed(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
