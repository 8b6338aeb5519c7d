# The server's own reading of its files, beside one that runs: it knows which values are wrong.
# shellcheck disable=SC2086  # a command with its arguments, none of which has blanks
bad=$(runuser -u postgres -- $command -C config_file 2>&1 >/dev/null | head -n 1) || true
if [ -n "$bad" ]; then echo "PostgreSQL refuses its configuration: $bad" >&2; exit 1; fi
