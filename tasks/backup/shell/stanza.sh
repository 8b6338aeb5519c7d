# What postgres has put in place of a file may never end. Where repositories differ the whole is 4.
codes=$(runuser -u postgres -- timeout -s KILL 30 \
  pgbackrest --stanza="$stanza" info --output=json 2>/dev/null | grep -o '"code":[0-9]*')
[ -z "$codes" ] || echo "$codes" | grep -qvx '"code":[024]' || echo ok
for owner in $(stat -c %U "$repository"/archive "$repository"/backup "$repository"/[12]-* \
  2>/dev/null); do
  [ "$owner" = postgres ] || echo strange
done
