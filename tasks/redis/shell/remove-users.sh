# The file would have them until the next start.
remove_users() { # PORT SERVICE NAMES
  accepted "$1" || { echo "$2 does not answer" >&2; exit 1; }
  bad=$(printf 'ACL DELUSER %s
' "$3" | /usr/bin/redis-cli $as $via -p "$1" 2>&1 | grep -vx '[0-9]*') || :
  if [ -n "$bad" ]; then echo "$2 keeps its users: $bad" >&2; exit 1; fi
  /usr/bin/redis-cli $as $via -p "$1" CONFIG REWRITE >/dev/null 2>&1 || :
}
