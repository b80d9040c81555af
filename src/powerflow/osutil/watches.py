"""Be told by the kernel when files change (inotify)."""

from __future__ import annotations

from inotify_simple import INotify

from powerflow.errors import InputError


def new_inotify() -> INotify:
    """Return a new inotify instance, which never blocks.

    Raises:
        InputError: The kernel does not give this user another one.
    """
    try:
        return INotify(nonblocking=True)
    except OSError as error:
        raise InputError(
            f"the kernel gives this user no more inotify instances ({error.strerror})",
            where="fs.inotify.max_user_instances",
            fix="raise it: sysctl fs.inotify.max_user_instances=1024",
            exit_code=1,
        ) from error
