# A dump has all that was there: no client may write after it has begun. A limit of 0 still lets
# superusers in, whose sessions end with the database.
port=$(peek "$DATA/postmaster.pid" sed -n 4p "$DATA/postmaster.pid")
errors=$(mktemp) closed=
end() { if [ -n "$closed" ]; then limit "$closed" "$limit" || :; fi; rm -f "$errors"; }
trap end EXIT; trap 'exit 1' HUP INT TERM
as() { runuser -u postgres -- "$@"; }
failed() { # WHAT
  why=$(grep -m 1 -E 'ERROR|FATAL|error' "$errors") || why=$(tail -n 1 "$errors")
  echo "${1:+$1: }$why" >&2; exit 1
}
ask() { closed_psql "$DATA" "$port" postgres "$@" >/dev/null; }
limit() { printf 'ALTER DATABASE :"db" CONNECTION LIMIT %s;\n' "$2" | ask -v db="$1"; }
leave() {
  echo "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :'db';" |
    ask -v db="$1"
}
dump() { # NAME FILE
  as install -d -m 700 "$dropped" && (
    umask 077
    closed "$DATA" "$port" "$1" pg_dump -w -Fc -f "$2.partial" &&
      as pg_restore -f /dev/null "$2.partial"
  ) && as sync "$2.partial" && as mv -T "$2.partial" "$2"
}
drop_database() { # NAME FILE LIMIT
  limit=$3 closed=$1
  limit "$1" 0 2>"$errors" && leave "$1" 2>"$errors" || failed
  dump "$1" "$2" 2>"$errors" || {
    as rm -f "$2.partial"; failed "database $1 stays, because its dump is not whole"; }
  echo 'DROP DATABASE :"db" WITH (FORCE);' | ask -v db="$1" 2>"$errors" || failed
  closed=
}
as_told() { [ -z "$SQL" ] || printf '%s\n' "$SQL" | ask 2>"$errors" || failed; }
