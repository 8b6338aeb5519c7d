# shellcheck shell=sh disable=SC2154
# What a server says of the settings in a file: one is started with them that cannot be reached. The
# answer is kept as long as program and file are the same.
expected() { # FILE
  [ -r "$1" ] && [ -x /usr/bin/redis-server ] || return 0
  if [ "$(sed 1q /etc/redis/redis-expected 2>/dev/null)" = "$(mark_of "$1")" ]; then
    sed 1d /etc/redis/redis-expected
    return 0
  fi
  place=$(runuser -u redis -- mktemp -d)
  ours='(tls-)?port|bind|dir|logfile|pidfile|unixsocket|daemonize|requirepass|masterauth|masteruser|user'
  sed -E "/^($ours) /d" "$1" |
    (cd "$place" && exec timeout 20 runuser -u redis -- /usr/bin/redis-server - --port 0 \
      --unixsocket "$place/s" --dir "$place" --save '' --appendonly no >/dev/null 2>&1) &
  for _ in $(seq 100); do
    if [ -S "$place/s" ] || ! kill -0 $! 2>/dev/null; then break; fi
    sleep 0.05
  done
  timeout 3 runuser -u redis -- /usr/bin/redis-cli -s "$place/s" CONFIG GET '*' 2>/dev/null |
    paste -d ' ' - -
  kill $! 2>/dev/null || :
  runuser -u redis -- rm -rf "$place"
}

mark_of() { # FILE
  echo "$(stat -L -c "%s %Y" /usr/bin/redis-server) $(sha256sum <"$1")"
}

keep_expected() { # FILE
  said=$(expected "$1")
  rm -rf /etc/redis/redis-expected.new
  (umask 077; set -C; printf '%s\n' "$(mark_of "$1")" "$said" >/etc/redis/redis-expected.new)
  mv -fT /etc/redis/redis-expected.new /etc/redis/redis-expected
}
