# shellcheck shell=sh disable=SC2034  # of the scripts that come after
# What redis-cli is told of the link to a server, as `via`. Where settings want TLS, no password goes
# to who answers in clear, once all have been seen to speak it: TLS_ONLY says so. Before that, and
# on the way back, a question without a password tells which of the two a server speaks.
AUTHORITY=/etc/datatier/tls/ca.pem TLS_ONLY=/etc/redis/redis-tls
link_to() { # IP PORT
  via=
  [ -n "${REDIS_TLS:-}" ] || [ -e "$AUTHORITY" ] || return 0
  if [ -n "${REDIS_TLS:-}" ] && [ -e "$TLS_ONLY" ] || ! in_clear "$1" "$2"; then
    via="--tls --cacert $AUTHORITY"
  fi
}
in_clear() { # IP PORT
  said_clear=$(unset REDISCLI_AUTH; timeout 2 /usr/bin/redis-cli -h "$1" -p "$2" PING 2>&1) || :
  case $said_clear in *NOAUTH* | *PONG* | *DENIED*) return 0 ;; esac
  return 1
}
