"""Where what belongs to the status page's server is."""

from __future__ import annotations

from backup.config import SERVED

# What the host says of it, and its certificate.
GROUP = "page"
# Its service, and the user that runs it.
NAME = "datatier-page"
HOME = "/etc/datatier/page"
PASSWORD = f"{HOME}/password"
# The health check writes here; nothing else does.
DIRECTORY = str(SERVED.parent)
