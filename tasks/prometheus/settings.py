"""The keys `prometheus_*` and `alertmanager_*`: what is measured, kept, and who is told."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tasks.core.settings import Line, Port, Settings, matching

_NO_URL = "should be a URL that begins with http:// or https://"
_ADDRESS = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
_NO_MAIL = "should be mail addresses, with a comma between two, such as 'ops@example.org'"
_PLACE = r"([A-Za-z0-9.-]+|\[[0-9a-f:]+\]):[0-9]{1,5}"

Url = Annotated[Line, matching(r"(https?://[^\s'\"]+)?", _NO_URL)]
Mail = Annotated[Line, matching(f"({_ADDRESS}(, ?{_ADDRESS})*)?", _NO_MAIL)]
Sender = Annotated[Line, matching(f"({_ADDRESS})?", "should be a mail address")]
Relay = Annotated[Line, matching(_PLACE, "should be a host and a port, such as 'localhost:25'")]


class PrometheusSettings(Settings):
    """The `prometheus_*` keys, on the host of the group `monitoring`."""

    prefix: ClassVar[str] = "prometheus_"

    port: Port = 9090
    """Where Prometheus listens, at the host's `address`. Change: restart."""
    scrape_seconds: Annotated[int, Field(ge=5, le=120)] = 15
    """Seconds between two looks at each exporter. Change: reload."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Days that measurements are kept. Change: restart; older ones go."""
    retention_gb: Annotated[int, Field(ge=1, le=100_000)] = 5
    """GB that they take at most; the oldest go first. Change: restart."""
    prune: bool = False
    """On a host that left the group Prometheus and Alertmanager go; measurements stay. Change: both
    stop."""


class AlertmanagerSettings(Settings):
    """The `alertmanager_*` keys: whom it tells; each channel gets each alert."""

    prefix: ClassVar[str] = "alertmanager_"

    port: Port = 9093
    """Where Alertmanager listens, at the host's `address`. Change: restart."""
    webhook: Url = ""
    """URL that gets alerts, in Alertmanager's own shape. Change: reload."""
    slack: Url = ""
    """URL of a Slack webhook; Mattermost takes the same. Change: reload."""
    mail: Mail = ""
    """Addresses that get alerts, with a comma between two. Change: reload."""
    mail_from: Sender = ""
    """Whom these come from. Needed with `alertmanager_mail`. Change: reload."""
    smarthost: Relay = "localhost:25"
    """The relay that sends them, without a password; beyond this host with TLS. Change: reload."""
    repeat_hours: Annotated[int, Field(ge=1, le=8760)] = 24
    """Hours after which an alert that lasts is told again. Change: reload."""

    @property
    def channels(self) -> list[str]:
        """Those that are chosen, by name."""
        return [name for name in ("webhook", "slack", "mail") if getattr(self, name)]
