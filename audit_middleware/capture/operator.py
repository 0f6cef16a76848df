"""Who runs a command: the user of the operating system."""

from __future__ import annotations

import os
import pwd

from audit_middleware.record import Principal


def operator() -> Principal:
    """Return the user that this process runs as, by name where the system knows one."""
    uid = os.getuid()
    try:
        return Principal(pwd.getpwuid(uid).pw_name, "system", "none")
    except KeyError:  # a container's user without an entry
        return Principal(f"uid:{uid}", "system", "none")
