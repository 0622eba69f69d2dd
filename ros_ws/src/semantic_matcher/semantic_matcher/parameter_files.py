"""YAML defaults and documentation tables, written from the table of parameters.

``python -m semantic_matcher.parameter_files`` brings ``config/*.yaml`` up to date.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from semantic_matcher.parameters import TABLES, ParameterSpec, Value


def yaml_defaults(executable: str) -> str:
    """The text of ``config/<executable>.yaml``: every parameter with its description and default."""
    lines = [
        f"# Parameters of {executable} with their defaults. Written by `python -m semantic_matcher.parameter_files`.",
        "/**:",
        "  ros__parameters:",
    ]
    for spec in TABLES[executable]:
        constraint = spec.range_text.replace("`", "")
        when = "dynamic" if spec.dynamic else "read-only"
        lines.append(f"    # {spec.description} [{', '.join(filter(None, (constraint, when)))}]")
        lines.append(f"    {spec.name}: {_yaml_scalar(spec.default)}")
    return "\n".join(lines) + "\n"


def _yaml_scalar(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def markdown_table(specs: Iterable[ParameterSpec]) -> str:
    """A table for the documentation."""
    lines = ["| parameter | type | default | range | changes at run time | what |", "|---|---|---|---|---|---|"]
    for spec in specs:
        default = f"`{_yaml_scalar(spec.default)}`"
        cells = (f"`{spec.name}`", spec.type_name, default, spec.range_text, "yes" if spec.dynamic else "no")
        lines.append(f"| {' | '.join(cells)} | {spec.description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the YAML files of defaults into the package's ``config`` folder."""
    folder = Path(__file__).resolve().parents[1] / "config"
    for executable in TABLES:
        (folder / f"{executable}.yaml").write_text(yaml_defaults(executable))
        print(f"wrote {folder / executable}.yaml")


if __name__ == "__main__":
    main()
