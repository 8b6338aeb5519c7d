# shellcheck shell=sh disable=SC2154
# An instance takes another way to listen, or to reach its master.
move() { # PORT SERVICE COMMANDS
  loaded "$1" || not_let_in "$2"
  took=$(printf '%s\n' "$3" | /usr/bin/redis-cli $as $via --no-raw -p "$1" 2>&1) || :
  case $took in
    *'(error)'* | *ERR* | '') ;;
    *OK*)
      accepted "$1" || { echo "$2 does not answer any more: check its log" >&2; exit 1; }
      require_served "$1"
      return 0 ;;
  esac
  echo "$2 stays as it was: $(printf '%s\n' "$took" | grep -m 1 -E 'error|ERR')" >&2
  exit 1
}
