# Restarts of Redis: what an instance has, whether it follows, and how a master hands over.
ask() { # IP PORT, commands on standard input
  link_to "$1" "$2"
  REDISCLI_AUTH=$REDIS_ADMIN_PASSWORD timeout 3 /usr/bin/redis-cli $via --user datatier-admin \
    -h "$1" -p "$2" 2>&1 | tr -d '\r'
}
ask_sentinel() { # IP PORT, commands on standard input
  link_to "$1" "$2"
  REDISCLI_AUTH=$REDIS_PASSWORD timeout 3 /usr/bin/redis-cli $via -h "$1" -p "$2" 2>&1 |
    tr -d '\r'
}
# ROLE LINK HISTORY OFFSET MASTER-IP MASTER-PORT of an instance, `-` for what it lacks, whether it
# loads, receives or sends all of the data, or waits for that, and how often it began to send.
position() { # IP PORT
  printf 'INFO %s\n' replication stats persistence | ask "$1" "$2" | awk '
    function of(key) { return v[key] == "" ? "-" : v[key] }
    { i = index($0, ":"); v[substr($0, 1, i - 1)] = substr($0, i + 1) }
    /^(loading|master_sync_in_progress):1/ { copying = 1 }
    /^slave[0-9]+:.*state=(wait_bgsave|send_bulk)/ { copying = 1 }
    END { print of("role"), of("master_link_status"), of("master_replid"),
      of(v["role"] == "slave" ? "slave_repl_offset" : "master_repl_offset"),
      of("master_host"), of("master_port"), copying + 0, of("sync_full") }'
}
has() { # IP PORT HISTORY OFFSET: a replica has all of its master's writes up to there
  set -- "$3" "$4" $(position "$1" "$2")
  [ "$3 $4 $5" = "slave up $1" ] && [ "$6" -ge "$2" ]
}
within() { # SECONDS COMMAND...
  end=$(($(date +%s) + $1)); shift
  until "$@"; do
    [ "$(date +%s)" -lt "$end" ] || return 1
    sleep 0.1
  done
}
# A replica has what its master had when that was asked. To load or to copy all of it may take
# long: as long as that goes on, or is to begin, it is not late, unless it begins over and over.
level() { # PORT
  set -- "$1" $(position 127.0.0.1 "$1")
  link=$3 copying=$8
  [ "$2" = slave ] || return 1
  set -- "$1" $(position "$6" "$7")
  case "$2 $copying$8" in
    master*1*) [ "$9" -gt $((${copies:=$9} + 5)) ] || end=$(($(date +%s) + 20)) ;;
  esac
  [ "$2 $link" = 'master up' ] || return 1
  for _ in $(seq 25); do
    if has 127.0.0.1 "$1" "$4" "$5"; then return 0; fi
    sleep 0.2
  done
  return 1
}
follow() { # PORT SERVICE
  copies=
  within 20 level "$1" || {
    echo "$2 has restarted, but does not follow its master: check its log;" \
      "run again to go on with the others" >&2
    exit 1
  }
}
# An old master that Sentinel has not yet made a replica would come back as a master.
require_replica() { # PORT SERVICE
  within 30 leads_nobody "$1" || {
    echo "$2 runs as master, but Sentinel follows another: run again when it is a replica" >&2
    exit 1
  }
}
leads_nobody() {
  case $(position 127.0.0.1 "$1") in master*) return 1 ;; esac
}
# Sentinel alone would leave the old master writable for about ten seconds after it has promoted
# another one, and what it accepts then is lost. So its clients wait, and it becomes a replica at
# once. A pause ends by itself: if all of this dies, clients go on.
monitor() { # IP PORT: who a Sentinel says is the master, and whether it could fail over
  printf 'SENTINEL %s '"$name"'\n' GET-MASTER-ADDR-BY-NAME CKQUORUM | ask_sentinel "$1" "$2" |
    paste -s -d ' '
}
# The replicas that a Sentinel does not miss: ADDRESS ROLE PRIORITY.
seen_by() { # IP PORT
  echo "SENTINEL REPLICAS $name" | ask_sentinel "$1" "$2" | awk '
    function flush() {
      if (v["ip"] && v["flags"] !~ /down|disconnected/)
        print v["ip"] ":" v["port"], v["role-reported"], v["slave-priority"]
      split("", v)
    }
    NR % 2 { key = $0; if (key == "name") flush(); next }
    { v[key] = $0 }
    END { flush() }'
}
# Whom it might promote; one that has just lost its master is among them.
candidates() {
  seen_by $sentinel | awk '$3 != 0 { print $1 }'
}
# Sentinels ask every ten seconds: one that takes an old master for a master still would demote it
# as soon as it is promoted again.
calm() { # SENTINEL...
  for each; do
    why="a failover has just ended, says the Sentinel $each"
    if seen_by "${each%:*}" "${each##*:}" | grep -q ' master '; then return 1; fi
  done
}
# Every one of them has what the master has.
all_level() {
  set -- $(position 127.0.0.1 "$port")
  [ "$1" = master ] || refuse 'is no longer the master: run again'
  history=$3 offset=$4 why='no replica is fit to be promoted: bring one up'
  for replica in $(candidates $sentinel); do
    why="$replica is behind or cut off, and Sentinel might promote it: repair or stop it"
    has "${replica%:*}" "${replica##*:}" "$history" "$offset" || return 1
    why=
  done
  [ -z "$why" ]
}
# A Sentinel that promotes no other.
choose() { # SENTINEL...
  calm "$@" || return 1
  why='no Sentinel answers'
  for each; do
    sentinel="${each%:*} ${each##*:}"
    said=$(monitor $sentinel)
    case $said in
      "$me OK "*) if all_level; then return 0; fi ;;
      ?*) why="the Sentinel $each says $said" ;;
    esac
  done
  return 1
}
refuse() { echo "$service $1" >&2; exit 1; }
own() { # COMMANDS
  printf '%s\n' "$@" | ask 127.0.0.1 "$port"
}
# A pause also stops the Sentinels, which publish here every two seconds: should all of this die,
# they make an old master a replica only eight seconds after it has ended.
pause() {
  [ "$(own 'CLIENT PAUSE 5000 WRITE')" = OK ]
}
paused_and_level() { why='it cannot pause its clients'; pause && all_level; }
hand_over() ( # IP PORT SERVICE NAME SENTINEL...
  me="$1 $2" port=$2 service=$3 name=$4
  shift 4
  within 20 choose "$@" || refuse "stays master: $why; then run again"
  # What ends this script does not end that one.
  (trap '' HUP INT TERM; exchange) &
  wait $!
  for each; do
    within 30 heard "$each" || {
      echo "the Sentinel $each still takes $service for the master: see its log; run again" >&2
      exit 1
    }
  done
  within 30 finished || :
)
exchange() {
  trap 'own "CLIENT UNPAUSE" >/dev/null' EXIT
  within 5 paused_and_level || refuse "stays master: $why; then run again"
  said=$(echo "SENTINEL FAILOVER $name" | ask_sentinel $sentinel)
  case $said in
    OK | INPROG*) ;;
    # The answer may only be late.
    '' | Error:*) ;;
    *) refuse "stays master: Sentinel says $said" ;;
  esac
  # Another one may be master from here on: what this one accepted now would be lost.
  trap - EXIT
  within 30 promoted ||
    refuse 'may still be replaced: the failover goes on; check the log of Sentinel, run again'
  within 5 demoted || refuse "cannot be made a replica of $leader: $said"
  own 'CLIENT UNPAUSE' >/dev/null
}
# The others follow the new master, so that this one may go.
finished() {
  case $(echo "SENTINEL MASTER $name" | ask_sentinel $sentinel) in
    *failover_in_progress*) return 1 ;;
  esac
}
promoted() {
  pause || :
  said=$(printf 'SENTINEL MASTER %s\nSENTINEL GET-MASTER-ADDR-BY-NAME %s\n' "$name" "$name" |
    ask_sentinel $sentinel | awk '
      NR % 2 { key = $0; next } { value = $0 } key == "flags" { flags = value }
      END { if (flags) print key, value, flags }')
  leader=${said% *}
  case $said in
    '' | "$me "*failover_in_progress*) return 1 ;;
    "$me "*) refuse 'stays master: Sentinel gave up, see its log; run again' ;;
  esac
}
# What Sentinel would do as well, but later.
demoted() {
  said=$(own MULTI "REPLICAOF $leader" 'CONFIG REWRITE' 'CLIENT KILL TYPE normal' \
    'CLIENT KILL TYPE pubsub' EXEC | paste -s -d ' ')
  case $said in *'QUEUED OK OK '* | *'master OK '*) ;; *) return 1 ;; esac
}
heard() { # IP:PORT of a Sentinel
  case $(monitor "${1%:*}" "${1##*:}") in "$me "*) return 1 ;; esac
}
