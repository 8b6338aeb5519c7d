# shellcheck disable=SC2034  # of listeners.sh
ports=$(for port in $(former_ports); do printf '%04X ' "$port"; done)
[ -n "$ports" ] || exit 0
