# With a pair that it cannot use a server keeps the old one, and only logs that: so it is asked.
shows() { # CERTIFICATE PLACE PROTOCOL CONFIGURATION
  grep -qsF "$1" "$4" || return 0
  wanted=$(openssl x509 -in "$1" -noout -fingerprint -sha256 2>/dev/null) || wanted=none
  tries=15
  while [ $tries != 0 ]; do
    tries=$((tries - 1))
    shown=$(timeout 3 openssl s_client ${3:+-starttls "$3"} -connect "$2" </dev/null 2>/dev/null |
      openssl x509 -noout -fingerprint -sha256 2>/dev/null) || shown=
    [ "$shown" != "$wanted" ] || return 0
    sleep 0.2
  done
  echo "$2 does not show $1: see the log of that server" >&2
  return 1
}
