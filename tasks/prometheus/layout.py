"""Where what belongs to Prometheus and Alertmanager is."""

from __future__ import annotations

# What the host says of them, and their certificate.
GROUP, SERVICE = "monitoring", "prometheus"

PROMETHEUS, ALERTMANAGER = "prometheus", "prometheus-alertmanager"
DEFAULTS = {name: f"/etc/default/{name}" for name in (PROMETHEUS, ALERTMANAGER)}
SCRAPES = "/etc/prometheus/prometheus.yml"
ROUTES = "/etc/prometheus/alertmanager.yml"
# Rules of the user's own.
FURTHER_RULES = "/etc/prometheus/rules/*.yml"

HOME = "/etc/datatier/prometheus"
RULES = f"{HOME}/rules.yml"
WEB = f"{HOME}/web.yml"
PASSWORD = f"{HOME}/password"

# As Debian's packages have them.
SERIES = "/var/lib/prometheus/metrics2"
SILENCES = "/var/lib/prometheus/alertmanager"
