"""This machine: the whole stack as a Compose project in /opt/psscript, beside its applications.

Put a host's name in place of "@local" for another machine. Ports are those of the host; inside
their containers all Redis instances listen on 6379 and all Sentinels on 26379.
"""

docker = [
    (
        "@local",
        {
            "redis_ports": [6379, 6380, 6381],
            "sentinel_ports": [26379, 26380, 26381],
            "apps": [
                # {"name": "frontend", "port": 3000, "health": "http:/", "image": "frontend:1"},
                # {"name": "backend", "port": 4000, "health": "http:/health", "image": "backend:1"},
                # {"name": "ai-service", "port": 8000, "health": "tcp", "image": "ai-service:1"},
            ],
        },
    )
]
