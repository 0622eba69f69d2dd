"""Options that belong together, written once as a dataclass and shared by commands."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeGuard

import typer

from semantic_matcher_core.conditions import OFF, without_effect


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with each parameter that is a dataclass replaced by one option per field.

    Fields are declared like parameters of a typer command: ``name: Annotated[type, typer.Option(…)] = default``; they
    may be such dataclasses themselves.
    """
    parameters = _parameters_of(command)

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        _say_what_does_nothing(parameters, values)
        command(**_gathered(command, values))

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # typer would look through the wrapper to the command's own parameters.
    del flat.__wrapped__
    return flat


def _say_what_does_nothing(parameters: list[inspect.Parameter], values: dict[str, Any]) -> None:
    defaults = {parameter.name: parameter.default for parameter in parameters}
    given = [name for name, value in values.items() if value != defaults[name] and value not in (None, [])]
    for name, wanted in without_effect(values, given).items():
        words = {other: ", ".join(word for word in of if isinstance(word, str)) for other, of in wanted.items()}
        needs = " or ".join(f"{_option(other)} {word}".strip() for other, word in words.items())
        excluded = any(set(of) >= OFF for of in wanted.values())
        typer.echo(f"note: {_option(name)} has no effect {'with' if excluded else 'without'} {needs}", err=True)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parameters_of(called: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters: list[inspect.Parameter] = []
    for parameter in _signature(called).parameters.values():
        kind = parameter.annotation
        if _is_group(kind):
            parameters += _parameters_of(kind)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    return parameters


def _gathered(called: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command or a dataclass, its groups made of the options that are theirs."""
    return {
        name: kind(**_gathered(kind, values)) if _is_group(kind := parameter.annotation) else values[name]
        for name, parameter in _signature(called).parameters.items()
    }


def _signature(called: Callable[..., Any]) -> inspect.Signature:
    # get_type_hints of Python 3.10 wraps what has the default None in Optional, behind which typer sees no option.
    return inspect.signature(called, eval_str=True)


def _is_group(kind: Any) -> TypeGuard[type]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
