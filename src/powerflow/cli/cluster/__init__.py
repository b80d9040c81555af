"""Define the commands that ask a running controller."""
