# shellcheck disable=SC2154  # a directory of data that is about to be destroyed
pid=$each/postmaster.pid
[ ! -e "$pid" ] || [ ! -d "/proc/$(peek "$pid" head -n 1 "$pid")" ] || {
  echo "PostgreSQL runs in $each: stop it first" >&2; exit 1; }
