"""YAML defaults and documentation, written from the table of parameters.

``python -m semantic_matcher.parameter_files`` brings ``config/*.yaml`` and, in a checkout, ``docs/ros.md`` up to date.
"""

from __future__ import annotations

from pathlib import Path

from semantic_matcher_core.options import SUBJECTS, TABLES, ParameterSpec, Value

_BEGIN = "<!-- parameters: written by `python -m semantic_matcher.parameter_files` -->"
_END = "<!-- end of parameters -->"


def yaml_defaults(executable: str) -> str:
    """Return the text of ``config/<executable>.yaml``: every parameter with its description and default."""
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
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_scalar, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def documentation() -> str:
    """Return the parameters as Markdown: a table for each subject, between two marks."""
    parts = [_BEGIN]
    for subject, specs in SUBJECTS.items():
        parts.append(f"**{subject}**\n")
        parts.append("| parameter | type | default | range | at run time | what |\n|---|---|---|---|---|---|")
        parts += [_row(spec) for spec in specs]
        parts.append("")
    return "\n".join([*parts, _END])


def _row(spec: ParameterSpec) -> str:
    cells = [f"`{spec.name}`", spec.type_name, f"`{_yaml_scalar(spec.default)}`", spec.range_text]
    cells += ["yes" if spec.dynamic else "no", spec.description]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Write them."""
    package = Path(__file__).resolve().parents[1]
    for executable in TABLES:
        (package / "config" / f"{executable}.yaml").write_text(yaml_defaults(executable))
    page = package.parents[2] / "docs" / "ros.md"
    if page.is_file():
        before, _, rest = page.read_text().partition(_BEGIN)
        page.write_text(before + documentation() + rest.partition(_END)[2])


if __name__ == "__main__":
    main()
