"""The keys `upgrade_*`."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.core.settings import Settings


class UpgradeSettings(Settings):
    """What `tasks.upgrade.deploy` upgrades."""

    prefix: ClassVar[str] = "upgrade_"

    packages: Literal["security", "all"] = "security"
    """`security`, or `all`: which updates of our packages `tasks.upgrade.deploy` installs, and for
    which it builds images of Docker again. Those of repositories that are not Debian's come with
    `all`. Change: with the next upgrade."""
