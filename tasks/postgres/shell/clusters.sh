# Tells what of PostgreSQL's clusters is on a host, and whose $VERSION/main is.
etc=/etc/postgresql/$VERSION/main data=/var/lib/postgresql/$VERSION/main
for d in /etc/postgresql/*/main /var/lib/postgresql/*/main; do
  case $d in *'*'*) ;; *) d=${d%/main}; echo "version ${d##*/}" ;; esac
done | sort -u
value() { # PARAMETER FILE...
  name=$1; shift
  grep -hsaD skip "$name" "$@" |
    sed -nE "s/^[[:space:]]*${name}[[:space:]=]+('([^']*)'|[^'#[:space:]]+).*/\\1/p" |
    tail -n 1 | tr -d "'"
}
where=$data mine=
if [ -e "$etc/postgresql.conf" ]; then
  echo configured
  where=$(value data_directory "$etc/postgresql.conf" "$etc"/conf.d/*.conf); where=${where:-$data}
  if is_ours "$etc" "$where"; then mine=1; echo ours; fi
# What pg_dropcluster has left of ours goes.
elif [ -n "$(grep -rLFD skip "$MARK" "$etc" 2>/dev/null)" ]; then echo "left $etc"
fi
# A configuration may have changed since the start, and a server may have been started by hand.
[ -n "$mine" ] || for p in $(grep -lsF "config_file=$etc/postgresql.conf" /proc/[0-9]*/cmdline) \
  "/proc/$(grep -saD skip -m 1 . "$where/postmaster.pid")/cmdline"; do
  p=${p%/cmdline}
  [ "$(cat "$p/comm" 2>/dev/null)" = postgres ] && [ "$p/root" -ef / ] || continue
  echo "running ${p#/proc/}"
  cwd=$(readlink "$p/cwd") && [ -d "$cwd" ] && where=$cwd
  break
done
if [ "$where" -ef "$data" ]; then where=$data; fi
echo "data $where"
if [ -s "$where/PG_VERSION" ] && [ -e "$where/global/pg_control" ]; then echo whole
elif [ -n "$(ls -A "$where" 2>/dev/null)" ]; then echo "left $where"
elif [ -e "$data.datatier-creating/PG_VERSION" ]; then echo creating
fi
[ -z "$mine" ] || exit 0
echo "databases $(ls "$where/base" 2>/dev/null | awk '$1 + 0 >= 16384' | wc -l)"
[ -e "$etc/postgresql.conf" ] || exit 0
hba=$(value hba_file "$etc/postgresql.conf" "$etc"/conf.d/*.conf)
[ "${hba:-$etc/pg_hba.conf}" = "$etc/pg_hba.conf" ] || echo "unfit hba_file is $hba"
case $(value include_dir "$etc/postgresql.conf") in
  conf.d|"$etc/conf.d") ;;
  *) echo "unfit $etc/postgresql.conf has no include_dir 'conf.d'" ;;
esac
archive=$(value archive_command "$etc/postgresql.conf" "$etc"/conf.d/*.conf \
  "$where/postgresql.auto.conf")
[ -z "$archive" ] || echo "archives $archive"
