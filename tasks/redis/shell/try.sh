# A second server that keeps nothing and listens in a private directory only.
try() { # FILE NAME
  said=$(mktemp) place=$(runuser -u redis -- mktemp -d)
  sed -E '/^((tls-)?port|bind|dir|logfile|pidfile|unixsocket|daemonize) /d' "$1" |
    (cd "$place" || exit; exec timeout 20 runuser -u redis -- redis-server - --port 0 --bind 127.0.0.1       --unixsocket "$place/s" --dir "$place" --save '' --appendonly no --loglevel notice       >"$said" 2>&1) &
  server=$! answer=
  for _ in $(seq 100); do
    answer=$(timeout 3 runuser -u redis -- redis-cli -s "$place/s" PING 2>/dev/null) || :
    case $answer in *PONG*|*NOAUTH*) break ;; esac
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  kill "$server" 2>/dev/null || :
  bad=$(sed -n '/FATAL CONFIG/,$p' "$said" | sed 1d | tr '
' ' ')
  bad=${bad:-$(grep -vF ' * ' "$said" | tail -n 1)}
  runuser -u redis -- rm -rf "$place"; rm -f "$said"
  case $answer in *PONG*|*NOAUTH*) return 0 ;; esac
  echo "$2: Redis refuses it: ${bad:-it does not start}" >&2
  exit 1
}
