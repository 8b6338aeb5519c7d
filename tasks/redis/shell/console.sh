# shellcheck disable=SC2154  # REDIS_PASSWORD comes before it
# Of our administrator's user and `default`, each with the password of the settings and the last
# one, the server accepts one: `as` is what redis-cli is told of the user. Commands with secrets go
# to redis-cli on standard input. What reads calls Debian's program: ours looks for a password
# first, which takes as long again. A program takes longer than what it asks, so all questions go
# to one; `said` has the answers, each after its name: see PARTS.
accepted() { # PORT [NAME COMMANDS]...
  asked=$1 pong='' said=''
  is_redis "$1" || return 1
  shift
  link_to 127.0.0.1 "$asked"
  # Sentinels have no such administrator, and who asks them says so.
  for login in ${logins:-admin admin.auth default cli.auth}; do
    case $login in
      admin) REDISCLI_AUTH=${REDIS_ADMIN_PASSWORD:-} as='--user datatier-admin' ;;
      default) REDISCLI_AUTH=$REDIS_PASSWORD as= ;;
      admin.auth) REDISCLI_AUTH=${REDIS_ADMIN_PASSWORD:+$(glance /etc/redis/redis-admin.auth)} ;;
      *) REDISCLI_AUTH=$(glance /etc/redis/redis-cli.auth) ;;
    esac
    [ -n "$REDISCLI_AUTH" ] || continue
    export REDISCLI_AUTH
    ask_all "$@"
    # Hands may have turned TLS off, or the certificate is over: who listens here is the user redis.
    if [ -z "$said" ] && [ -n "$via" ]; then
      if in_clear 127.0.0.1 "$asked"; then via=; ask_all "$@"
      elif [ -n "$said_clear" ]; then via='--tls --insecure'; ask_all "$@"; fi
    fi
    pong=${said%%
*}
    pong=${pong#(error) }
    case $said in
      PONG*'"end"') return 0 ;;
      # It has stopped in the middle.
      PONG*) pong='' ;;
    esac
    case $pong in LOADING*) return 1 ;; esac
  done
  return 1
}
ask_all() { # [NAME COMMANDS]...
  said=$({ echo PING; questions "$as" "$@"; echo PING end; } |
    timeout 3 /usr/bin/redis-cli $as $via --no-raw -p "$asked" 2>/dev/null) || :
}
questions() { # AS [NAME COMMANDS]...
  me=${1#--user }
  shift
  while [ $# -gt 0 ]; do
    echo "PING $1"
    if [ "$2" = "$RIGHTS" ]; then rights "${me:-default}"; else printf '%s\n' "$2"; fi
    shift 2
  done
}
# For awk: the name of each answer in `part`, and of a line of a list its text in `word`. To say a
# name takes no other right than PING. Only a restart can set `default` right where it is `locked`.
# shellcheck disable=SC2034  # of the scripts that come after
PARTS='
  { sub(/\r$/, ""); listed = 0 }
  /^"[a-z]+"$/ { part = substr($0, 2, length($0) - 2); next }
  (part == "" || part == "rights") && /NOAUTH|WRONGPASS|NOPERM|no permissions/ { locked = 1 }
  /^[ 0-9)]*[0-9]+\) "/ {
    listed = 1; word = $0
    sub(/^[ 0-9)]*[0-9]+\) "/, "", word); sub(/"$/, "", word)
  }'
# Whether who asks may set `default` right: the answers are the part `rights`.
RIGHTS=@rights
rights() { printf 'ACL DRYRUN %s %s\n' "$1" 'ACL LIST' "$1" 'ACL SETUSER default'; } # USER
# dpkg puts another file in the place of a program that runs.
is_replaced() { # PID
  case $(readlink "/proc/${1:-none}/exe") in *' (deleted)') return 0 ;; esac
  return 1
}
# As long as it reads its data, it is not late.
loaded() { # PORT
  until accepted "$1"; do
    case $pong in LOADING*) sleep 1 ;; *) return 1 ;; esac
  done
}
# One that is busy says nothing of the password.
not_let_in() { # SERVICE
  [ -n "$pong" ] || { echo "$1 does not answer: it may be loading its data; see its log" >&2; exit 1; }
  echo "$1 does not accept the password of the settings" >&2
  exit 1
}
config_set() { # PORT COMMAND SERVICE KEY...
  loaded "$1" || not_let_in "$3"
  port=$1 command=$2 service=$3; shift 3
  # Hands may have taken the right to what follows; the password is its own matter.
  [ -n "$as" ] || /usr/bin/redis-cli $via -p "$port" ACL SETUSER default on '~*' '&*' +@all >/dev/null 2>&1 || :
  came=$(comes_as "$port")
  answer=$(printf '%s
' "$command$(defaults "$@")" | /usr/bin/redis-cli $as $via -p "$port" 2>&1 |
    grep -v '^AUTH failed') || :
  case $answer in
    OK*) ;;
    *) echo "$service keeps its old settings: $answer" >&2; exit 1 ;;
  esac
  [ -n "$as" ] || REDISCLI_AUTH=$REDIS_PASSWORD
  # The link to its master is that of the user before; it goes on from where it was.
  [ "$came" = "$(comes_as "$port")" ] || /usr/bin/redis-cli $as $via -p "$port" CLIENT KILL TYPE master >/dev/null
  guard "$port" "$service"
  require_served "$port"
  leave_log "$port" "$service"
}
require_served() { # PORT
  [ -z "$via" ] || shows /etc/datatier/tls/redis/certificate.pem "127.0.0.1:$1" '' \
    "/etc/redis/redis-$1.conf"
}
comes_as() { /usr/bin/redis-cli $as $via -p "$1" CONFIG GET masteruser; } # PORT
# CONFIG SET of the password that it has already does nothing, though others may be let in.
guard() { # PORT SERVICE
  printf 'ACL SETUSER default %s\n' "$DEFAULT_USER" |
    /usr/bin/redis-cli $as $via -p "$1" 2>/dev/null | grep -qx OK || {
    echo "$2 does not take the password of the settings for its only one" >&2; exit 1; }
}
# Redis leaves a file that it does not append to any more, and a later start would read it.
leave_log() { # PORT SERVICE
  [ "$(/usr/bin/redis-cli $as $via -p "$1" CONFIG GET appendonly | sed -n 2p)" = no ] || return 0
  log=/var/lib/redis/$1/$(/usr/bin/redis-cli $as $via -p "$1" CONFIG GET appenddirname | sed -n 2p)
  [ -d "$log" ] || return 0
  until said=$(/usr/bin/redis-cli $as $via -p "$1" BGSAVE 2>&1); case $said in *started*) ;; *) false ;; esac; do
    case $said in *progress*|*active*) sleep 1 ;; *) break ;; esac
  done
  while /usr/bin/redis-cli $as $via -p "$1" INFO persistence | grep -q '^rdb_bgsave_in_progress:1'; do
    sleep 0.2
  done
  /usr/bin/redis-cli $as $via -p "$1" INFO persistence | grep -q '^rdb_last_bgsave_status:ok' || {
    echo "$2 keeps $log, since it cannot save a snapshot: see its log; run again" >&2; exit 1; }
  at "$log" sh -c 'rm -rf "$1.off"; mv -T "$1" "$1.off"' - "$log"
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
