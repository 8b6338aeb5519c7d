# The package's own instance would take port 6379 at the next boot.
if [ -d /run/systemd/system ]; then systemctl -q mask redis-server.service 2>/dev/null; fi
