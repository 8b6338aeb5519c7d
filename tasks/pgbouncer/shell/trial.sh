new=$(mktemp -d); trap 'rm -rf "$new"' EXIT
printf %s "$TRIAL_INI" >"$new/ini"; printf %s "$TRIAL_USERS" >"$new/users"
printf %s "$TRIAL_HBA" >"$new/hba"
try "$new/ini" "$new/users" "$new/hba"
