"""This machine: the whole stack on one host."""

_this = ("@local", {"address": "127.0.0.1"})

postgres = [_this]
pgbouncer = [_this]
redis = [("@local", {"redis_ports": [6379, 6380, 6381]})]
backup = [_this]
apps = [_this]
sentinel = [("@local", {"sentinel_ports": [26379, 26380, 26381]})]
