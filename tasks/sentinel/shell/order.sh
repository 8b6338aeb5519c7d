order() { # PORT COMMANDS
  accepted "$1" || { echo "redis-sentinel-$1 does not answer" >&2; exit 1; }
  bad=$(printf '%s\n' "$2" | /usr/bin/redis-cli $via -p "$1" 2>&1 |
    grep -vxE '|OK|[0-9]+|AUTH failed.*' | head -n 1) || true
  if [ -n "$bad" ]; then echo "redis-sentinel-$1: $bad" >&2; exit 1; fi
}
