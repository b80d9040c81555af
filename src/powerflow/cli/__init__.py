"""Define the command line. Each command has a small module, which is imported only when the command is used."""
