# What postgres has put in place of a file may never end. Where repositories differ the whole is 4.
codes=$(runuser -u postgres -- timeout -s KILL 30 \
  pgbackrest --stanza="$stanza" info --output=json 2>/dev/null | grep -o '"code":[0-9]*')
known=ok
[ -n "$codes" ] && ! echo "$codes" | grep -qvx '"code":[024]' || known=''
# Its server makes no place for WAL: it can write to what was there when it started.
for place in "$repository"/archive/"$stanza" "$repository"/[12]-*/archive/"$stanza"; do
  [ -z "$server" ] || [ ! -d "$place" ] || ls -d "$place"/*-*/ >/dev/null 2>&1 || known=''
done
[ -z "$known" ] || echo ok
for owner in $(stat -c %U "$repository"/archive "$repository"/backup "$repository"/[12]-* \
  2>/dev/null); do
  [ "$owner" = postgres ] || echo strange
done
