# shellcheck shell=sh disable=SC2154
require_tls() { # IP:PORT...
  for each; do
    seen=$(unset REDISCLI_AUTH; timeout 5 /usr/bin/redis-cli --tls --cacert "$AUTHORITY" \
      -h "${each%:*}" -p "${each##*:}" PING 2>&1) || :
    case $seen in *NOAUTH* | *PONG*) continue ;; esac
    echo "$each does not answer over TLS: ${seen:-silence}; check its log, run again" >&2
    exit 1
  done
}
