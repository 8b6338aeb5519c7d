codes=$(runuser -u postgres -- pgbackrest --stanza="$stanza" info --output=json 2>/dev/null |
  grep -o '"code":[0-9]*') || :
if [ -z "$codes" ] || echo "$codes" | grep -qvx '"code":[024]'; then
  out=$(runuser -u postgres -- pgbackrest --stanza="$stanza" stanza-create 2>&1) || {
    echo "pgBackRest: $(printf '%s\n' "$out" | tail -n 1)" >&2; exit 1; }
fi
[ -z "$server" ] || {
  # It can write to what was there when it started.
  echo "$wal" | while read -r place; do runuser -u postgres -- mkdir -p -m 750 "$place"; done
  [ ! -d /run/systemd/system ] || systemctl restart "$server"
}
