"""Define the command line: one small module for each command, imported only when the command is used."""
