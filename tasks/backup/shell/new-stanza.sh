codes=$(runuser -u postgres -- pgbackrest --stanza="$stanza" info --output=json 2>/dev/null |
  grep -o '"code":[0-9]*') || :
if [ -z "$codes" ] || echo "$codes" | grep -qvx '"code":[024]'; then
  tries=30
  # A backup that runs may hold the usual lock for hours, and WAL waits for the new repository.
  until out=$(runuser -u postgres -- pgbackrest --stanza="$stanza" --lock-path="$locks/create" \
    stanza-create 2>&1); do
    # What PostgreSQL archives meanwhile has the lock for a moment.
    case $out in *'another pgBackRest process'*) tries=$((tries - 1)) ;; *) tries=0 ;; esac
    [ "$tries" -gt 0 ] || {
      echo "pgBackRest: $(printf '%s\n' "$out" | tail -n 1)" >&2; exit 1; }
    sleep 1
  done
fi
[ -z "$server" ] || {
  # It can write to what was there when it started.
  echo "$wal" | while read -r place; do runuser -u postgres -- mkdir -p -m 750 "$place"; done
  [ ! -d /run/systemd/system ] || systemctl restart "$server"
}
