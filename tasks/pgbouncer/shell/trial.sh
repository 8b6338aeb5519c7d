new=$(mktemp -d); trap 'rm -rf "$new"' EXIT
printf %s "$TRIAL_INI" >"$new/ini"; printf %s "$TRIAL_USERS" >"$new/users"
try "$new/ini" "$new/users"
