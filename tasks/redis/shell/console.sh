# shellcheck disable=SC2154  # REDIS_PASSWORD comes before it
# Of two passwords the server accepts one: the settings', or until it has taken that the last
# one. Commands with secrets go to redis-cli on standard input. What reads calls Debian's program:
# ours looks for a password first, which takes as long again.
accepted() {
  pong=
  is_redis "$1" || return 1
  for kept in '' kept; do
    REDISCLI_AUTH=$REDIS_PASSWORD
    [ -z "$kept" ] || REDISCLI_AUTH=$(glance /etc/redis/redis-cli.auth)
    export REDISCLI_AUTH
    pong=$(timeout 3 /usr/bin/redis-cli -p "$1" PING 2>/dev/null) || :
    case $pong in PONG) return 0 ;; LOADING*) return 1 ;; esac
  done
  return 1
}
# Only a restart can set `default` right there; after `accepted`.
locked() { # PORT
  said=$pong
  [ "$pong" != PONG ] ||
    said=$(printf 'ACL DRYRUN default ACL %s\n' LIST 'SETUSER default' |
      timeout 3 /usr/bin/redis-cli -p "$1" 2>&1)
  case $said in *NOAUTH* | *WRONGPASS* | *NOPERM* | *'no permissions'*) return 0 ;; esac
  return 1
}
# dpkg puts another file in the place of a program that runs.
is_replaced() { # PORT
  pid=$(timeout 3 /usr/bin/redis-cli -p "$1" INFO server 2>/dev/null | tr -d '\r' |
    sed -n 's/^process_id://p')
  case $(readlink "/proc/${pid:-none}/exe") in *' (deleted)') return 0 ;; esac
  return 1
}
# As long as it reads its data, it is not late.
loaded() { # PORT
  until accepted "$1"; do
    case $pong in LOADING*) sleep 1 ;; *) return 1 ;; esac
  done
}
config_set() { # PORT COMMAND SERVICE KEY...
  loaded "$1" || { echo "$3 does not accept the password of the settings" >&2; exit 1; }
  port=$1 command=$2 service=$3; shift 3
  # Hands may have taken the right to what follows; the password is its own matter.
  redis-cli -p "$port" ACL SETUSER default on '~*' '&*' +@all >/dev/null 2>&1 || :
  answer=$(printf '%s
' "$command$(defaults "$@")" | redis-cli -p "$port" 2>&1 |
    grep -v '^AUTH failed') || :
  case $answer in
    OK*) ;;
    *) echo "$service keeps its old settings: $answer" >&2; exit 1 ;;
  esac
  REDISCLI_AUTH=$REDIS_PASSWORD
  guard "$port" "$service"
  leave_log "$port" "$service"
}
# CONFIG SET of the password that it has already does nothing, though others may be let in.
guard() { # PORT SERVICE
  printf 'ACL SETUSER default reset on ~* &* +@all ">%s"
' "$REDIS_PASSWORD" |
    redis-cli -p "$1" 2>/dev/null | grep -qx OK || {
    echo "$2 does not take the password of the settings for its only one" >&2; exit 1; }
}
users() { # PORT
  /usr/bin/redis-cli --no-raw -p "$1" ACL LIST 2>/dev/null | sed -n 's/^ *[0-9]*) "user /"user /p'
}
# Redis leaves a file that it does not append to any more, and a later start would read it.
leave_log() { # PORT SERVICE
  [ "$(redis-cli -p "$1" CONFIG GET appendonly | sed -n 2p)" = no ] || return 0
  log=/var/lib/redis/$1/$(redis-cli -p "$1" CONFIG GET appenddirname | sed -n 2p)
  [ -d "$log" ] || return 0
  until said=$(redis-cli -p "$1" BGSAVE 2>&1); case $said in *started*) ;; *) false ;; esac; do
    case $said in *progress*|*active*) sleep 1 ;; *) break ;; esac
  done
  while redis-cli -p "$1" INFO persistence | grep -q '^rdb_bgsave_in_progress:1'; do sleep 0.2; done
  redis-cli -p "$1" INFO persistence | grep -q '^rdb_last_bgsave_status:ok' || {
    echo "$2 keeps $log, since it cannot save a snapshot: see its log; run again" >&2; exit 1; }
  at "$log" sh -c 'rm -rf "$1.off"; mv -T "$1" "$1.off"' - "$log"
}
running() { # PORT KEY...: what it runs with
  port=$1; shift
  /usr/bin/redis-cli -p "$port" CONFIG GET "$@" 2>/dev/null | paste -d ' ' - -
}
# What a server without settings has, as CONFIG SET takes it.
defaults() { # KEY...
  [ $# -gt 0 ] || return 0
  place=$(runuser -u redis -- mktemp -d)
  (cd "$place" || exit; exec timeout 20 runuser -u redis -- /usr/bin/redis-server --port 0 --save ''     --unixsocket "$place/s" --dir "$place" >/dev/null 2>&1) &
  for _ in $(seq 50); do [ ! -S "$place/s" ] || break; sleep 0.1; done
  for key; do
    value=$(timeout 3 runuser -u redis -- /usr/bin/redis-cli -s "$place/s" CONFIG GET "$key"       2>/dev/null | sed -n 2p)
    printf ' %s "%s"' "$key" "$value"
  done
  kill $!; runuser -u redis -- rm -r "$place"
}
