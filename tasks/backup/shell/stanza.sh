# What postgres has put in place of a file may never end.
runuser -u postgres -- timeout -s KILL 30 \
  pgbackrest --stanza="$stanza" info --output=json 2>/dev/null |
  grep -q '"code":[02],' && echo ok || true
for owner in $(stat -c %U "$repository/archive" "$repository/backup" 2>/dev/null); do
  [ "$owner" = postgres ] || echo strange
done
