# The command of the documentation first: what it creates it recognises.
# shellcheck disable=SC2034  # for what follows
if command -v docker-compose >/dev/null; then compose=docker-compose
elif docker compose version >/dev/null 2>&1; then compose='docker compose'
else compose=; fi
