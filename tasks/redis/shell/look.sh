# What runs is the truth: a stranger at the address of the table has to be refused.
asks_for_password() { # ADDRESS PORT
  said=$(unset REDISCLI_AUTH; timeout 3 /usr/bin/redis-cli -h "$1" -p "$2" PING 2>&1) || :
  case $said in
    *NOAUTH*) return ;;
    *PONG* | *DENIED*) echo "asks for no password" ;;
    *) echo "no answer at $1: $said" ;;
  esac
  exit 1
}
also() { # PORT USER...
  port=$1; shift
  users=$(users "$port" | cut -d ' ' -f 2 | grep -vxF "$(printf '%s
' default "$@")" |
    paste -s -d ,)
  printf '%s' "${users:+; ACL users that are not in the settings: $users}"
}
has_users() { # PORT USER...
  there=$(users "$1" | cut -d ' ' -f 2); shift
  for user; do
    printf '%s
' "$there" | grep -qxF "$user" || { echo "has no ACL user $user"; exit 1; }
  done
}
