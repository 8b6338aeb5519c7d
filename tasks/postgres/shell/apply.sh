port=$(peek "$DATA/postmaster.pid" sed -n 4p "$DATA/postmaster.pid")
errors=$(mktemp); trap 'rm -f "$errors"' EXIT
printf '%s\n' "$SQL" | closed_psql "$DATA" "$port" postgres >/dev/null 2>"$errors" || {
  grep -m 1 -E 'ERROR|FATAL|error' "$errors" >&2 || tail -n 1 "$errors" >&2; exit 1; }
