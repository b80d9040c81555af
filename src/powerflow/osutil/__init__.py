"""Files, locks and processes of the operating system, where the standard library needs care."""
