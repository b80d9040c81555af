"""Say which values a field of a request may have, without importing pydantic where nothing is checked.

The command line makes requests and only the service checks them. To import pydantic would take the command line longer
than all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import ConfigDict

#: Configuration of a request: pydantic refuses fields that it does not know.
NOTHING_ELSE: ConfigDict = {"extra": "forbid"}


class Field:
    """Rules for a value, as the arguments of `pydantic.Field`. Write it into the field's annotation."""

    def __init__(self, **rules: Any) -> None:
        self.rules = rules

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return pydantic's schema of the annotated type with these rules."""
        from pydantic import Field as PydanticField

        return handler.generate_schema(Annotated[source, PydanticField(**self.rules)])

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        """Return the JSON schema of the annotated type with these rules."""
        return handler(schema)
