new=$(mktemp -d); trap 'rm -rf "$new"' EXIT
printf '%s' "$TRY_RULES" >"$new/rules.yml"
printf '%s' "$TRY_SCRAPES" | sed "s|$monitoring_rules|$new/rules.yml|" >"$new/prometheus.yml"
printf '%s' "$TRY_ROUTES" >"$new/alertmanager.yml"
try() { # COMMAND
  said=$("$@" 2>&1) || { echo "$1 refuses the configuration: $(printf '%s' "$said" | grep . | tail -n 1)" >&2; exit 1; }
}
try promtool check rules "$new/rules.yml"
try promtool check config --syntax-only "$new/prometheus.yml"
try amtool check-config "$new/alertmanager.yml"
