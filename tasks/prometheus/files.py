"""The files of Prometheus and Alertmanager: whom they ask, what is an alert, and who is told."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core import files
from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.files import TEMPLATES, Directory, Entry, File, Found, render
from tasks.exporter.files import hashed, web_file
from tasks.exporter.service import is_encrypted, listens_at
from tasks.exporter.settings import SECRET, USER, ExporterSettings
from tasks.prometheus import service
from tasks.prometheus.layout import (
    ALERTMANAGER,
    DEFAULTS,
    FURTHER_RULES,
    GROUP,
    HOME,
    PASSWORD,
    PROMETHEUS,
    ROUTES,
    RULES,
    SCRAPES,
    SERIES,
    SERVICE,
    SILENCES,
    WEB,
)
from tasks.prometheus.settings import AlertmanagerSettings, PrometheusSettings
from tasks.tls import certificates
from tasks.tls.probes import AUTHORITY


def exporters(node: Node) -> list[dict[str, str]]:
    """The exporters of the estate: name of the host, place, and how it speaks."""
    return [
        {
            "host": other.plain_name,
            "place": listens_at(other),
            "scheme": "https" if is_encrypted(other) else "http",
        }
        for other in node.estate.having(ExporterSettings)
    ]


def scrapes(node: Node) -> str:
    """The configuration of Prometheus."""
    places = service.listens_at(node)
    return render(
        "monitoring/prometheus.yml.j2",
        seconds=node.the(PrometheusSettings).scrape_seconds,
        stack=node.stack.stack_name,
        rules=[RULES, FURTHER_RULES],
        user=USER,
        password_file=PASSWORD,
        authority=AUTHORITY if certificates.is_on(node) else "",
        scheme="https" if certificates.is_on(node) else "http",
        host=node.plain_name,
        exporters=exporters(node),
        itself={"prometheus": places[PROMETHEUS], "alertmanager": places[ALERTMANAGER]},
        alertmanager=places[ALERTMANAGER],
    )


def rules() -> str:
    """The alert rules."""
    return (TEMPLATES / "monitoring/rules.yml").read_text()


def routes(node: Node) -> str:
    """The configuration of Alertmanager."""
    chosen = node.the(AlertmanagerSettings)
    is_near = chosen.smarthost.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")
    return render("monitoring/alertmanager.yml.j2", chosen=chosen, requires_tls=not is_near)


def configuration(node: Node) -> dict[str, str]:
    """What a reload makes each of them take."""
    return {PROMETHEUS: scrapes(node) + rules(), ALERTMANAGER: routes(node)}


def files_of(node: Node, value: str = "") -> list[Entry]:
    """Every file.

    Args:
        value: the hash of the password.
    """
    return [
        Directory("/etc/datatier"),
        Directory(HOME, "750", group=USER),
        web_file(WEB, SERVICE, value, is_encrypted=certificates.is_on(node)),
        File(PASSWORD, node.estate.secrets.get(SECRET), "640", group=USER, secret=r"^(.*)$"),
        File(RULES, rules(), "640", group=USER),
        Directory("/etc/prometheus"),
        File(SCRAPES, scrapes(node), "640", group=USER),
        File(ROUTES, routes(node), "640", group=USER, secret=r"url: (.*)$"),
        *_defaults(node),
        Directory(SERIES, "750", USER, USER),
        Directory(SILENCES, "750", USER, USER),
        *(entry for each in service.services_of(node) for entry in node.place.files(each)),
    ]


def _defaults(node: Node) -> Iterator[File]:
    for name, words in service.arguments(node).items():
        yield File(DEFAULTS[name], render("exporter/defaults.j2", arguments=words))


def missing_files(node: Node) -> Change | None:
    """What is missing or differs; both programs read it before it is written."""
    found: dict[str, Found] = node.read(GROUP)["files"]
    value = hashed(node.estate.secrets, found[WEB])
    change = files.compare(files_of(node, value), found)
    texts = {SCRAPES: scrapes(node), RULES: rules(), ROUTES: routes(node)}
    if change is None or files.are_written(texts, found):
        return change
    names = ("TRY_SCRAPES", "TRY_RULES", "TRY_ROUTES")
    return change.after([service.trial(dict(zip(names, texts.values(), strict=True)))])
