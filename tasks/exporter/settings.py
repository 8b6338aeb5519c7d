"""The keys `monitoring_*`: what measures each host, and who may ask it."""

from __future__ import annotations

from typing import ClassVar

from tasks.core.settings import Port, Settings

# Who asks, and the password.
USER = "prometheus"
SECRET = "MONITORING_PASSWORD"


class ExporterSettings(Settings):
    """Whether each host tells how it is, and where."""

    prefix: ClassVar[str] = "monitoring_"

    enabled: bool = False
    """Debian's node exporter on this host, at its `address`, with a password: for the health check
    and for Prometheus. Should be the same on all hosts. Change: starts or goes."""
    exporter_port: Port = 9100
    """Where it listens. Change: it restarts."""
