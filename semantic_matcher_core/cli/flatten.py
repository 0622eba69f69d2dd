"""Options that belong together, written once as a dataclass and shared by commands."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeGuard, get_type_hints


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with each parameter that is a dataclass replaced by one option per field.

    Fields are declared like parameters of a typer command: ``name: Annotated[type, typer.Option(…)] = default``; they
    may be such dataclasses themselves.
    """
    parameters = _parameters_of(command)

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        command(**_gathered(command, values))

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # typer would look through the wrapper to the command's own parameters.
    del flat.__wrapped__
    return flat


def _parameters_of(called: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(called, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(called).parameters.values():
        kind = hints[parameter.name]
        if _is_group(kind):
            parameters += _parameters_of(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    return parameters


def _gathered(called: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command or a dataclass, its groups made of the options that are theirs."""
    hints = get_type_hints(called)
    return {
        name: kind(**_gathered(kind, values)) if _is_group(kind := hints[name]) else values[name]
        for name in inspect.signature(called).parameters
    }


def _is_group(kind: Any) -> TypeGuard[type]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
