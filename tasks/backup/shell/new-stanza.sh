runuser -u postgres -- pgbackrest --stanza="$stanza" info --output=json 2>/dev/null |
  grep -q '"code":[02],' || {
  out=$(runuser -u postgres -- pgbackrest --stanza="$stanza" stanza-create 2>&1) || {
    echo "pgBackRest: $(printf '%s\n' "$out" | tail -n 1)" >&2; exit 1; }
}
[ -z "$server" ] || {
  # It can write to what was there when it started.
  runuser -u postgres -- mkdir -p -m 750 "$wal"
  [ ! -d /run/systemd/system ] || systemctl restart "$server"
}
