"""Options of commands, made from the table of options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typing_extensions import dataclass_transform

from semantic_matcher_core.options import NOT_GIVEN, ParameterSpec, command_line_of, on_command_line

T = TypeVar("T")

FROM_TABLE: Any = object()
"""Default of a field that is declared for its type's sake; what it is like is in the table."""


@dataclass_transform(frozen_default=True, kw_only_default=False)
def from_table(panel: str, *groups: Iterable[ParameterSpec]) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass of options, one for each field and one for each option of some groups of the table.

    Fields are declared as for :func:`~semantic_matcher_core.cli.flatten.flattened`. One whose default is
    ``FROM_TABLE`` is as the table says, and so is every option of the groups that is not declared at all.

    Args:
        panel: under which help shows them.
        groups: of the table of options; none for what is declared alone.
    """

    def made(cls: type[T]) -> type[T]:
        table = on_command_line(*groups)
        hints = get_type_hints(cls, include_extras=True)
        annotations: dict[str, Any] = {}
        for name in [*hints, *(name for name in table if name not in hints)]:
            if name in hints and getattr(cls, name, ...) is not FROM_TABLE:
                annotations[name] = hints[name]
                for option in hints[name].__metadata__:
                    option.rich_help_panel = panel
            else:
                annotations[name], default = _option(table[name], panel)
                setattr(cls, name, default)
        cls.__annotations__ = annotations
        return dataclass(frozen=True)(cls)

    return made


def _option(spec: ParameterSpec, panel: str) -> tuple[Any, Any]:
    """Return the annotation and the default of an option of the table."""
    line = command_line_of(spec)
    default: Any = spec.default if line.default is ... else line.default
    kind: Any = list[str] if isinstance(spec.default, list) else type(spec.default)
    # Above, what takes the value says more than the parser of the command line could.
    bounds: dict[str, Any] = {} if isinstance(spec.default, bool) or spec.minimum is None else {"min": spec.minimum}
    name = f"--{spec.name.replace('_', '-')}"
    names = [f"{name}/--no-{name[2:]}" if default is True else name, *line.flags]
    options = typer.Option(
        *names,
        help=spec.description,
        rich_help_panel=panel,
        show_default=default is not NOT_GIVEN and default not in ("", [""]),
        **bounds,
    )
    return Annotated[kind | None if default is NOT_GIVEN else kind, options], default
