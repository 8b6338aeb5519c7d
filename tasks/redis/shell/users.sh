# shellcheck shell=sh disable=SC2154
# ACL users of an instance; REDISCLI_AUTH is its password.

# What the users of the settings would be, in this server's words.
tried_users() { # PORT
  [ -n "$TRIED" ] || return 0
  printf '%s\n' MULTI "$TRIED" 'ACL LIST' "$UNTRIED" EXEC |
    /usr/bin/redis-cli --no-raw -p "$1" 2>/dev/null |
    sed -n 's/^[ 0-9)]*"user datatier:/"user datatier:/p'
}

set_users() { # PORT SERVICE COMMANDS
  [ -n "$3" ] || return 0
  said=$(printf '%s\n' MULTI "$3" EXEC | /usr/bin/redis-cli --no-raw -p "$1" 2>&1) || :
  case $said in
    *'(error)'*) echo "$2 keeps its users: $(printf '%s\n' "$said" | grep -m 1 -F '(error)')" >&2 ;;
    *'1) '*) return 0 ;;
    *) echo "$2 keeps its users: $said" >&2 ;;
  esac
  exit 1
}
