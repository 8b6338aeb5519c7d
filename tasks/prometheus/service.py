"""Prometheus and Alertmanager as services, and how they are asked."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.change import Trial
from tasks.core.estate import Node
from tasks.core.offer import place
from tasks.core.places import Service
from tasks.core.scripts import quoted, shell
from tasks.exporter.settings import SECRET, USER
from tasks.prometheus.layout import (
    ALERTMANAGER,
    PROMETHEUS,
    ROUTES,
    RULES,
    SCRAPES,
    SERIES,
    SILENCES,
    WEB,
)
from tasks.prometheus.settings import AlertmanagerSettings, PrometheusSettings
from tasks.tls import certificates
from tasks.tls.probes import AUTHORITY


def listens_at(node: Node) -> dict[str, str]:
    """Where both are reached, by their names."""
    return {
        PROMETHEUS: place(node.address, node.the(PrometheusSettings).port),
        ALERTMANAGER: place(node.address, node.the(AlertmanagerSettings).port),
    }


def url(node: Node, name: str) -> str:
    """How one is reached."""
    return f"{'https' if certificates.is_on(node) else 'http'}://{listens_at(node)[name]}"


def arguments(node: Node) -> dict[str, list[str]]:
    """What both are started with, by their names."""
    chosen = node.the(PrometheusSettings)
    common = {
        name: [
            f"--web.listen-address={where}",
            f"--web.config.file={WEB}",
            f"--web.external-url={url(node, name)}/",
        ]
        for name, where in listens_at(node).items()
    }
    return {
        PROMETHEUS: [
            f"--config.file={SCRAPES}",
            f"--storage.tsdb.path={SERIES}",
            f"--storage.tsdb.retention.time={chosen.retention_days}d",
            f"--storage.tsdb.retention.size={chosen.retention_gb}GB",
            "--web.enable-lifecycle",
            *common[PROMETHEUS],
        ],
        # Without an address for others of its kind it would listen for them on all.
        ALERTMANAGER: [
            f"--config.file={ROUTES}",
            f"--storage.path={SILENCES}",
            "--cluster.listen-address=",
            *common[ALERTMANAGER],
        ],
    }


def login(node: Node) -> dict[str, str]:
    """Variables of `asking`."""
    password = node.estate.secrets.get(SECRET).replace("\\", "\\\\").replace('"', '\\"')
    return {"MONITORING_LOGIN": f'user = "{USER}:{password}"'}


def asking(node: Node) -> str:
    """Shell: ask URL [OPTIONS]."""
    return shell(
        "ask", "prometheus", monitoring_authority=AUTHORITY if certificates.is_on(node) else ""
    )


def services_of(node: Node) -> list[Service]:
    """Both, Debian's, which write nothing but their own data."""
    return [
        _service(node, PROMETHEUS, node.the(PrometheusSettings).port, (SCRAPES, RULES), SERIES),
        _service(node, ALERTMANAGER, node.the(AlertmanagerSettings).port, (ROUTES,), SILENCES),
    ]


def _service(
    node: Node, name: str, port: int, configuration: tuple[str, ...], data: str
) -> Service:
    program = f"/usr/bin/{name}"
    take = quoted(name, f"{url(node, name)}/-/reload")
    return Service(
        name=name,
        description="metrics and alerts of the estate",
        command=quoted(program, *arguments(node)[name]),
        user=USER,
        group=USER,
        unit=f"{name}.service",
        configuration=configuration,
        ready=f"ask {quoted(f'{url(node, name)}/-/ready')} >/dev/null",
        reload=f"take {take}",
        functions=asking(node),
        variables=login(node),
        listens=None if node.is_loopback else (node.address, port),
        confined="wholly",
        writes=(data,),
    )


def trial(texts: Mapping[str, str]) -> Trial:
    """Both programs' own reading of files that are not written yet.

    Args:
        texts: by the names of variables: `TRY_SCRAPES`, `TRY_RULES`, `TRY_ROUTES`.
    """
    return Trial(shell("try", "prometheus", monitoring_rules=RULES), texts)
