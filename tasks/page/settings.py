"""The keys `status_page_*`: whether the status page is served, and where."""

from __future__ import annotations

from typing import ClassVar

from tasks.core.settings import Port, Settings

SECRET = "STATUS_PAGE_PASSWORD"


class PageSettings(Settings):
    """Whether a browser may ask the backup host for the status page."""

    prefix: ClassVar[str] = "status_page_"

    port: Port | None = None
    """Where the backup host serves the status page, at its `address`, to user `status` with the
    password `STATUS_PAGE_PASSWORD`; with `tls_enabled` over TLS. Change: it restarts; without one
    it goes."""

    @property
    def enabled(self) -> bool:
        """Whether it is served."""
        return self.port is not None
