ask() { printf '%s\n' "$1" | closed_psql "$data" "$port" postgres; }
[ "$(ask 'SELECT pg_is_in_recovery()')" = f ] || ask 'SELECT pg_promote(true, 60)' | grep -qx t ||
  { echo 'it was not promoted within 60 s: see its log' >&2; exit 1; }
