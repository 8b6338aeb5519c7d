"""What Prometheus and Alertmanager leave on a host, and how they go."""

from __future__ import annotations

from tasks.core.estate import Node
from tasks.core.traces import Here, Leaves
from tasks.prometheus.layout import (
    ALERTMANAGER,
    DEFAULTS,
    HOME,
    PROMETHEUS,
    ROUTES,
    SCRAPES,
    SERIES,
    SILENCES,
)
from tasks.prometheus.settings import PrometheusSettings


def _here(node: Node) -> Here:
    if PrometheusSettings not in node.settings:
        return Here()
    return Here(frozenset({PROMETHEUS, ALERTMANAGER}), data=(SERIES, SILENCES))


LEAVES = Leaves(
    owns=(PROMETHEUS, ALERTMANAGER),
    marked=(*DEFAULTS.values(), SCRAPES, ROUTES),
    owners=(
        (f"{DEFAULTS[ALERTMANAGER]}|{ROUTES}", ALERTMANAGER),
        (f"{DEFAULTS[PROMETHEUS]}|{SCRAPES}|{HOME}", PROMETHEUS),
    ),
    units=(PROMETHEUS, ALERTMANAGER),
    packages=(PROMETHEUS, ALERTMANAGER),
    here=_here,
    # What dpkg puts beside a file that was there before its package.
    further={name: f"{path}.dpkg-dist" for name, path in DEFAULTS.items()},
    title="monitoring",
    goes=f"{PROMETHEUS}|{ALERTMANAGER}",
)
