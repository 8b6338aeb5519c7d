# Creates the cluster $VERSION/main under a name of ours; it gets its own when it is whole.
new=main.datatier-creating etc=/etc/postgresql/$VERSION data=/var/lib/postgresql/$VERSION
# A mount point or a link cannot be replaced: the cluster is made in it.
where=$data/$new place=
if [ -L "$data/main" ] || mountpoint -q "$data/main"; then where=$data/main place=$where; fi
# An earlier run may have ended between the two renames.
if [ ! -e "$etc/main/postgresql.conf" ]; then
  remove "$etc/$new" "$data/$new"
  for each in "$etc" "$data" ${place:+"$place"}; do
    [ -e "$each" ] || [ -L "$each" ] || at "$each" install -d -o postgres -g postgres -- "$each"
    # A new file system is root's; one that stands in a directory of postgres is its own.
    (cd -P "$each" 2>/dev/null && mountpoint -q . && [ "$(stat -c %U ..)" = postgres ] &&
      chown postgres:postgres .) || :
    runuser -u postgres -- test -O "$each" ||
      { echo "$each does not belong to postgres: give it to postgres, or move it away" >&2; exit 1; }
  done
  # What it writes is synced below, at once and not file by file.
  runuser -u postgres -- pg_createcluster "$VERSION" "$new" ${place:+-d "$place"} \
    --start-conf disabled --port "$PORT" --locale "$LOCALE" --encoding UTF8 -- --data-checksums \
    --no-sync --auth-local=peer --auth-host=scram-sha-256 >/dev/null
  # A copy takes the place of what initdb has made: only the files in /etc stay.
  [ -z "$PRIMARY" ] || {
    runuser -u postgres -- find "$where" -mindepth 1 -delete
    runuser -u postgres -- env LC_ALL=C "/usr/lib/postgresql/$VERSION/bin/pg_basebackup" \
      -D "$where" -d "$PRIMARY" -S "$SLOT" -X stream -c fast --no-password --no-sync
    runuser -u postgres -- touch "$where/standby.signal"
  }
  # What it leaves out unless it is root: apt keeps the packages of versions that have a cluster.
  timeout 20 /usr/share/postgresql-common/pg_updateaptconfig >/dev/null 2>&1 || :
  remove "/var/log/postgresql/postgresql-$VERSION-$new.log"
  at "$etc/$new/x" sed -i 's/main\.datatier-creating/main/' "$etc/$new/postgresql.conf"
  at "$etc/$new/x" sed -i 's/^disabled$/auto/' "$etc/$new/start.conf"
  at "$etc/$new/x" sed -i "1i # $MARK" "$etc/$new/pg_hba.conf"
  # What pg_dropcluster has left of ours.
  at "$etc/main/conf.d/x" rm -f -- "$etc/main/conf.d/datatier.conf"
  at "$etc/main/x" rmdir -- "$etc/main/conf.d" "$etc/main" 2>/dev/null || :
  at "$where/x" sync -f "$where"
  at "$etc/main" mv -T -- "$etc/$new" "$etc/main"
fi
[ -n "$place" ] || at "$data/main" mv -T -- "$where" "$data/main"
at /var/lib/postgresql/x rm -f /var/lib/postgresql/.datatier-creating
