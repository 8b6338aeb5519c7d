"""What an application needs to find the Redis master."""

from __future__ import annotations

from urllib.parse import quote

from tasks.core.estate import Estate
from tasks.core.offer import Offer, Reach, place
from tasks.redis.sentinels import SentinelSettings, master_name
from tasks.redis.settings import RedisSettings, password, user_passwords
from tasks.tls.certificates import is_on


def offer(everything: Estate, reach: Reach) -> Offer | None:
    """All Sentinels, the password that is theirs and Redis's, and those of limited users."""
    nodes = everything.having(SentinelSettings)
    if not nodes:
        return None
    instance = everything.having(RedisSettings)[0]
    secret, name = password(instance), master_name(everything)
    places = ",".join(
        place(reach(node), port) for node in nodes for port in node.the(SentinelSettings).ports
    )
    scheme = "rediss+sentinel" if is_on(instance) else "redis+sentinel"
    url = f"{scheme}://:{quote(secret, safe='')}@{places}/{quote(name, safe='')}/0"
    return Offer(
        {"REDIS_SENTINELS": places, "REDIS_MASTER_NAME": name},
        {"REDIS_PASSWORD": secret},
        {"REDIS_SENTINEL_URL": url},
        user_passwords(instance),
    )
