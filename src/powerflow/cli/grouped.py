"""List commands in the help text by group, as ``gh`` and ``kubectl`` do."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class CommandGroups(TyperGroup):
    """A command with subcommands, whose help text lists these by group (``rich_help_panel`` of `typer`)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section of the help text for each group."""
        wide = max(map(len, self.commands), default=0)
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            summary = command.get_short_help_str(formatter.width - 6 - wide)
            group = getattr(command, "rich_help_panel", None)
            groups.setdefault(group or "Commands", []).append((name.ljust(wide), summary))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)
