"""Where what belongs to the exporter is."""

from __future__ import annotations

NAME = "prometheus-node-exporter"
PROGRAM = f"/usr/bin/{NAME}"
DEFAULTS = f"/etc/default/{NAME}"
HOME = "/etc/datatier/exporter"
WEB = f"{HOME}/web.yml"
# Debian gives the first one to the exporter's user, and root writes in the second one.
STATE = "/var/lib/prometheus"
TEXTFILES = f"{STATE}/node-exporter"
# What its certificate is called.
SERVICE = "exporter"
