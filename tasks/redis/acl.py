"""Limited users of Redis, as ACL: what they may do, and that every instance has exactly them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator

from tasks.core import hide
from tasks.core.settings import Identifier, Model, Secret, wrong
from tasks.redis.topology import Instance, User

# `default` is the one with redis_password; the others are for Datatier's own ways in.
RESERVED = frozenset({"default", "replica", "sentinel", "backup", "monitor", "datatier"})

OURS = "datatier-"
ADMIN, REPLICA = f"{OURS}admin", f"{OURS}replica"
SENTINEL, BACKUP = f"{OURS}sentinel", f"{OURS}backup"
# Ours, and what they may do at an instance.
OWN = {
    ADMIN: "~* &* +@all",
    # What a replica sends to its master.
    REPLICA: "+psync +replconf +ping",
    # What Sentinel's documentation lists.
    SENTINEL: "&__sentinel__:hello +multi +exec +slaveof +ping +subscribe +publish +config|rewrite "
    "+role +info +client|setname +client|kill +script|kill",
    # What a dump takes, and a restore, for which the master follows the backup host for a time.
    BACKUP: "+sync +psync +replconf +ping +info +config|get +replicaof",
}

# ACL CAT of Redis 7.0 and 8.0, without modules. tests/e2e/test_redis_rolling.py asks both.
_CATEGORIES = """
admin bitmap blocking connection dangerous fast geo hash hyperloglog keyspace list pubsub read
scripting set slow sortedset stream string transaction write
"""
_COMMANDS = """
acl acl|cat acl|deluser acl|dryrun acl|genpass acl|getuser acl|help acl|list acl|load acl|log
acl|save acl|setuser acl|users acl|whoami append asking auth bgrewriteaof bgsave bitcount bitfield
bitfield_ro bitop bitpos blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin client
client|caching client|getname client|getredir client|help client|id client|info client|kill
client|list client|no-evict client|pause client|reply client|setname client|tracking
client|trackinginfo client|unblock client|unpause cluster cluster|addslots cluster|addslotsrange
cluster|bumpepoch cluster|count-failure-reports cluster|countkeysinslot cluster|delslots
cluster|delslotsrange cluster|failover cluster|flushslots cluster|forget cluster|getkeysinslot
cluster|help cluster|info cluster|keyslot cluster|links cluster|meet cluster|myid cluster|nodes
cluster|replicas cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch
cluster|setslot cluster|shards cluster|slaves cluster|slots command command|count command|docs
command|getkeys command|getkeysandflags command|help command|info command|list config config|get
config|help config|resetstat config|rewrite config|set copy dbsize debug decr decrby del discard
dump echo eval eval_ro evalsha evalsha_ro exec exists expire expireat expiretime failover fcall
fcall_ro flushall flushdb function function|delete function|dump function|flush function|help
function|kill function|list function|load function|restore function|stats geoadd geodist geohash
geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore get
getbit getdel getex getrange getset hdel hello hexists hget hgetall hincrby hincrbyfloat hkeys
hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals incr incrby incrbyfloat info keys
lastsave latency latency|doctor latency|graph latency|help latency|histogram latency|history
latency|latest latency|reset lcs lindex linsert llen lmove lmpop lolwut lpop lpos lpush lpushx
lrange lrem lset ltrim memory memory|doctor memory|help memory|malloc-stats memory|purge
memory|stats memory|usage mget migrate module module|help module|list module|load module|loadex
module|unload monitor move mset msetnx multi object object|encoding object|freq object|help
object|idletime object|refcount persist pexpire pexpireat pexpiretime pfadd pfcount pfdebug
pfmerge pfselftest ping psetex psubscribe psync pttl publish pubsub pubsub|channels pubsub|help
pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub punsubscribe quit randomkey
readonly readwrite rename renamenx replconf replicaof reset restore restore-asking role rpop
rpoplpush rpush rpushx sadd save scan scard script script|debug script|exists script|flush
script|help script|kill script|load sdiff sdiffstore select set setbit setex setnx setrange
shutdown sinter sintercard sinterstore sismember slaveof slowlog slowlog|get slowlog|help
slowlog|len slowlog|reset smembers smismember smove sort sort_ro spop spublish srandmember srem
sscan ssubscribe strlen subscribe substr sunion sunionstore sunsubscribe swapdb sync time touch
ttl type unlink unsubscribe unwatch wait watch xack xadd xautoclaim xclaim xdel xgroup
xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|help xgroup|setid
xinfo xinfo|consumers xinfo|groups xinfo|help xinfo|stream xlen xpending xrange xread xreadgroup
xrevrange xsetid xtrim zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore
zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore
zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex
zrevrangebyscore zrevrank zscan zscore zunion zunionstore
"""
# What Redis 8.0 has besides.
_NEWER = """
client|no-touch client|setinfo cluster|myshardid hexpire hexpireat hexpiretime hgetdel hgetex
hpersist hpexpire hpexpireat hpexpiretime hpttl hsetex httl waitaof
"""
CATEGORIES = frozenset(_CATEGORIES.split())
COMMANDS = frozenset(_COMMANDS.split())
NEWER = frozenset(_NEWER.split())

_SHAPE = re.compile(r"[+-](@[a-z]+|[a-z_.-]+(\|[a-z-]+)?)")


def _rule(value: str) -> str:
    if not _SHAPE.fullmatch(value.lower()):
        raise wrong(f"{value!r} should be such as '+get', '-config|set', '+@read' or '+@all'")
    return value.lower()


def _pattern(value: str) -> str:
    bare = re.sub(r"^%(R|W|RW)~", "", value)
    if bare.startswith(("~", "&", "%")):
        raise wrong(f"{value!r} should be a pattern such as 'app:*', or '%R~app:*' to only read")
    return _bare(bare) and value


# Sentinels tell each other here who leads, and believe it. Redis has no rule for all but one.
_HELLO = "__sentinel__:hello"
_OTHERS = "&[^_]* &_[^_]* &__[^s]*"


def _channel(value: str) -> str:
    if value.startswith(("~", "&", "%")):
        raise wrong(f"{value!r} should be a pattern such as 'app:*'")
    if value != "*" and fnmatchcase(_HELLO, value.replace("[^", "[!").replace("\\", "")):
        raise wrong(f"{value!r} has {_HELLO} in it: who writes there tells Sentinels who leads")
    return _bare(value)


def _bare(value: str) -> str:
    if not value or not value.isprintable() or re.search(r"\s", value):
        raise wrong(f"{value!r} should be a pattern without blanks or unprintable characters")
    return value


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise wrong("should not be empty")
    return values


def _alone(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > 1 and "*" in values:
        raise wrong("should have '*' alone: it has all others in it")
    return values


class RedisUser(Model):
    """An ACL user; one without a password gets a generated one, kept in `.env`."""

    password: Secret | None = None
    """Stored as its SHA-256. Default: generated, in `.env`."""
    commands: Annotated[tuple[Annotated[str, AfterValidator(_rule)], ...], AfterValidator(_some)]
    """What it may do, in Redis's words and order: `["+@all", "-@dangerous"]`, `["+get"]`."""
    keys: Annotated[
        tuple[Annotated[str, AfterValidator(_pattern)], ...], AfterValidator(_alone)
    ] = ()
    """Patterns of its keys: `["app:*"]`; `%R~app:*` to only read, `%W~app:*` to only write."""
    channels: Annotated[
        tuple[Annotated[str, AfterValidator(_channel)], ...], AfterValidator(_alone)
    ] = ()
    """Patterns of its channels; `["*"]` does not let it write to those of Sentinels."""


RedisUsers = dict[Identifier, RedisUser]


def secret_name(user: str) -> str:
    """The name of a user's password in the environment and in `.env`."""
    return f"REDIS_USER_{re.sub('[^A-Z0-9]', '_', user.upper())}_PASSWORD"


def wrong_users(users: RedisUsers) -> Iterator[tuple[str, str]]:
    """Names that cannot be, as a key of `redis_users` and what is wrong with it."""
    shared = dict[str, str]()
    for name, user in users.items():
        if name.lower() in RESERVED or name.lower().startswith(OURS):
            yield f"redis_users/{name}", f"{name!r} is reserved"
        if user.password is None:
            other = shared.setdefault(secret_name(name), name)
            if other != name:
                message = f"users {other!r} and {name!r} would share the secret {secret_name(name)}"
                yield "redis_users", f"{message}: give one of them a password"


def unknown_commands(users: RedisUsers, release: str) -> Iterator[tuple[str, str]]:
    """Commands and categories that the Redis of a release does not have.

    Args:
        release: of Debian, whose Redis it is.
    """
    known = COMMANDS if release == "Debian 12" else COMMANDS | NEWER
    for name, user in users.items():
        for rule in user.commands:
            word = rule[1:].removeprefix("@")
            is_category = rule[1] == "@"
            all_of_them = CATEGORIES | {"all"} if is_category else known
            if word in all_of_them:
                continue
            what = "category" if is_category else "command"
            near = get_close_matches(word, sorted(all_of_them), n=1, cutoff=0.7)
            hint = f" ({rule[: -len(word)]}{near[0]}?)" if near else ""
            message = f"{rule!r}: Redis of {release} has no such {what}{hint}"
            yield f"redis_users/{name}/commands", message


# --- What every instance should have -------------------------------------------------------------


def hashed(password: str) -> str:
    """What Redis keeps of a password; as secret as it is."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    hide.secret(digest)
    return digest


# What `default` may do, by `redis_default_user`. An application's is what clients of
# docs/connecting.md need; nothing of it harms others.
DEFAULT = {
    "all": "~* &* +@all",
    "application": "~* &* +@all -@dangerous -@admin -function -script|flush -script|kill "
    "-script|debug -memory|purge +info +role +client|list "
    f"-publish clearselectors ({_OTHERS} +publish)",
}


def default_rules(kind: str, *passwords: str) -> str:
    """The rules of `default` as Redis reads them."""
    return f"reset on {DEFAULT[kind]} {_hashes(passwords)}"


def _hashes(passwords: Iterable[str]) -> str:
    return " ".join(f"#{hashed(each)}" for each in passwords)


def own_secret_name(user: str) -> str:
    """The name of the password of one of our users in the environment and in `.env`."""
    return f"REDIS_{user.removeprefix(OURS).upper()}_PASSWORD"


def own_rules(user: str, password: str) -> str:
    """The rules of one of our users as Redis reads them."""
    return f"reset resetchannels on {OWN[user]} #{hashed(password)}"


def rules(user: RedisUser, *passwords: str) -> str:
    """The rules of a user as Redis reads them, with passwords as their hashes, at the end."""
    keys = [_word(key if key.startswith("%") else f"~{key}") for key in user.keys]
    channels = [_word(f"&{channel}") for channel in user.channels]
    words = ["reset", "resetchannels", "on", *keys, *channels, *user.commands]
    if "*" in user.channels:
        others = " ".join((*keys, _OTHERS, *user.commands))
        words += ["-publish", "clearselectors", f"({others})"]
    return " ".join((*words, _hashes(passwords)))


def _word(text: str) -> str:
    return quote(text) if set(text) & set("\\\"'") else text


def quote(value: str) -> str:
    """A string for a Redis configuration file, and for redis-cli."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# A name that no user of the settings can have.
_TRIED = "datatier:"


def tried(wanted: Mapping[str, str]) -> tuple[str, str]:
    """Commands that make users with the wanted rules under other names, and that remove them.

    Releases spell rules in their own ways, so the server says what ours come to. In one
    transaction: these users are never seen.
    """
    make = "\n".join(f'ACL SETUSER "{_TRIED}{name}" {rules}' for name, rules in wanted.items())
    return make, "ACL DELUSER " + " ".join(f'"{_TRIED}{name}"' for name in wanted)


def is_tried(user: User) -> bool:
    """Whether it is one of `tried`."""
    return user.name.startswith(f'"{_TRIED}')


def _named(users: Iterable[User]) -> dict[str, User]:
    return {user.name.strip('"').removeprefix(_TRIED): user for user in users}


NEW, CHANGED, BESIDE = "new", "changed", "another password too"
ENDS = "; its connections end"


def differing(instance: Instance, wanted: Mapping[str, str]) -> dict[str, str]:
    """The users that an instance has not as they should be, and what that amounts to."""
    now, then = _named(instance.users), _named(instance.tried)
    found = dict[str, str]()
    for name, text in wanted.items():
        if name not in now:
            found[name] = NEW
        elif name not in then or now[name].rules != then[name].rules:
            if what := _passwords_of(now[name], text):
                found[name] = what
            elif not instance.full:
                found[name] = CHANGED
    return found


def _passwords_of(user: User, text: str) -> str:
    """What happens to a user whose passwords are not the wanted ones."""
    now, wanted = {*_passwords(user)}, {*_wanted(text)}
    if now - wanted or "nopass" in user.rules:
        return f"another password{ENDS}"
    return BESIDE if wanted - now else ""


def passwords_of(instance: Instance, name: str, text: str) -> str:
    """What happens to a user of an instance whose passwords are not the wanted ones."""
    user = _named(instance.users).get(name)
    return _passwords_of(user, text) if user else ""


def lets_in(instance: Instance, name: str, text: str) -> bool:
    """Whether the wanted password is one of a user's."""
    now = _named(instance.users).get(name)
    return now is not None and {*_wanted(text)} <= {*_passwords(now)}


def _passwords(user: User) -> list[str]:
    return [rule for rule in user.rules if rule.startswith("#")]


def _wanted(text: str) -> list[str]:
    return re.findall(r"#[0-9a-f]{64}", text)


def added(wanted: Mapping[str, str], found: Mapping[str, str], users: Iterable[User]) -> str:
    """What gives an instance these users, as commands; another password is added to those there."""
    there = _named(users)
    kept = {name: wanted[name].removeprefix("reset ") for name in found if name in there}
    return "\n".join(f'ACL SETUSER "{name}" {kept.get(name, wanted[name])}' for name in found)


def orders(wanted: Mapping[str, str], found: Mapping[str, str], gone: Collection[str]) -> str:
    """What makes an instance have these users, as commands of one transaction."""
    lines = [f'ACL SETUSER "{name}" {rules}' for name, rules in wanted.items()]
    lines += [f'CLIENT KILL USER "{name}"' for name, what in found.items() if ENDS in what]
    lines += [f'ACL DELUSER "{name}"' for name in sorted(gone)]
    return "\n".join(lines)
