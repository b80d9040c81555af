"""Give a command options of the command line instead of one of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_args

Command = Callable[..., None]


def options_instead_of(
    name: str, options: Mapping[str, Any], value: Callable[..., Any]
) -> Callable[[Command], Command]:
    """Return a decorator that replaces the parameter ``name`` of a command by options.

    The options stand in the help text where the parameter stands in the command if it can be given by keyword only;
    otherwise they are the last.

    Args:
        name: Name of the parameter.
        options: Annotated type of each option, by name. Options that are not given are None, flags are False.
        value: Function from the values of the options, as keyword arguments, to the value of the parameter.
    """

    def decorated(command: Command) -> Command:
        @wraps(command)
        def with_options(**given: Any) -> None:
            chosen = {option: given.pop(option) for option in options}
            command(**{name: value(**chosen)}, **given)

        parameters = list(signature(command, eval_str=True).parameters.values())
        at = [parameter.name for parameter in parameters].index(name)
        replaced = parameters.pop(at)
        if replaced.kind is not Parameter.KEYWORD_ONLY:
            at = len(parameters)
        parameters[at:at] = [_option(option, kind) for option, kind in options.items()]
        with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return decorated


def _option(name: str, kind: Any) -> Parameter:
    default = False if get_args(kind)[0] is bool else None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
