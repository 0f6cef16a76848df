"""``python -m audit_middleware`` is the command ``audit-ready``."""

from __future__ import annotations

from audit_middleware.cli import main

if __name__ == "__main__":
    main()
