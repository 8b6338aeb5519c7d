# shellcheck shell=sh disable=SC2154
# ACL users of an instance, which has accepted who asks.

set_users() { # PORT SERVICE COMMANDS
  [ -n "$3" ] || return 0
  tell_users "$1" "$2" '1) ' "$(printf '%s\n' MULTI "$3" EXEC)"
}
# Before CONFIG SET, so that no run which is cut off leaves sessions of who is let in no more.
end_sessions() { # PORT SERVICE COMMANDS
  [ -z "$3" ] || ! loaded "$1" || add_users "$@"
}
# One by one: an instance whose memory is full takes nothing in a transaction.
add_users() { tell_users "$1" "$2" OK "$3"; } # PORT SERVICE COMMANDS
tell_users() { # PORT SERVICE ANSWER COMMANDS
  said=$(printf '%s\n' "$4" | /usr/bin/redis-cli $as $via --no-raw -p "$1" 2>&1) || :
  case $said in
    *'(error)'*) echo "$2 keeps its users: $(printf '%s\n' "$said" | grep -m 1 -F '(error)')" >&2 ;;
    *"$3"*) return 0 ;;
    *) echo "$2 keeps its users: $said" >&2 ;;
  esac
  exit 1
}
