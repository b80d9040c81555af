"""Say what a login of this machine finds in its environment."""

from __future__ import annotations

import pwd


def login_environment(user: str) -> dict[str, str]:
    """Return the variables that a login shell sets for a user of this machine; none if there is no such user."""
    try:
        login = pwd.getpwnam(user)
    except KeyError:
        return {}
    return {"HOME": login.pw_dir, "USER": login.pw_name, "LOGNAME": login.pw_name, "SHELL": login.pw_shell}
