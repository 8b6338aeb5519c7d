"""An estate of plain hosts over SSH; copy it and put your names and addresses in.

Groups decide what lands where; a host may be in several. `address` is the IP address that the
other hosts use; without it the host's name is resolved where pyinfra runs. Log in as root, or as a
user with sudo: `ssh_user` here, or pyinfra's --ssh-user and --same-sudo-password.
"""

postgres = [("db1", {"address": "10.0.0.11"})]

pgbouncer = [("pool1", {"address": "10.0.0.21"})]

# The first host's port starts as master; from then on Sentinel decides.
redis = [
    ("cache1", {"address": "10.0.0.31"}),
    ("cache2", {"address": "10.0.0.32"}),
    ("cache3", {"address": "10.0.0.33"}),
]

sentinel = ["cache1", "cache2", "cache3"]

backup = [("backup1", {"address": "10.0.0.41"})]

# Prometheus and Alertmanager for all hosts with monitoring_enabled, see docs/monitoring.md:
# monitoring = [("watch1", {"address": "10.0.0.61"})]

# Hosts that run your programs, see docs/apps.md:
# apps = [("web1", {"address": "10.0.0.51"})]
