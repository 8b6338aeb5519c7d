#!/bin/sh
# Written by Datatier; changes are overwritten.
# Restores the whole cluster in place, from the repository; docs/recovery.md says when.
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# What the caller's shell says for psql and pgBackRest would lead them elsewhere.
# shellcheck disable=SC2046  # names of variables
unset TMPDIR POSIXLY_CORRECT $(env | sed -n 's/^\(PG[A-Z0-9_]*\)=.*/\1/p')
umask 077
cd /

data=/var/lib/postgresql/17/main
config=/etc/postgresql/17/main/postgresql.conf
bin=/usr/lib/postgresql/17/bin
stanza=psscript
log=$data.restore.log
marker=$data.restoring
stamp=$(date -u +%Y%m%d_%H%M%S)
aside='' socket=''

usage() {
  cat <<END
Usage: restore-cluster.sh [--latest | --time MOMENT | --incremental NAME] [--timeline N]
                          [--backup LABEL] [--without-last-wal] [--new-tablespaces] [--yes]

Restores all of PostgreSQL's data directory from the physical repository. What is there now is
moved aside, never deleted.

  --latest            to the end of the archived WAL (the default)
  --time MOMENT       to a moment with a zone: '2026-11-22 14:03:00+00', or '10 minutes ago'
  --incremental NAME  to an incremental backup: ${stanza}_incremental_20261122_140300
  --timeline N        follow this timeline instead of the newest, to reach what an earlier
                      restore left behind
  --backup LABEL      begin with this physical backup instead of the last one that is on the way
  --without-last-wal  go on although what the running server wrote last cannot be archived
  --new-tablespaces   go on where the WAL creates a tablespace: you have seen that the directories
                      of tablespaces newer than the backup are empty
  --yes               do it although the data directory is not empty

Exit codes: 0 done, 1 failed, 2 wrong use, 75 a backup or another restore is running.
END
}
# The caller may be gone, and stderr with it: that must not end this anywhere.
trap '' PIPE
say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) restore-cluster[$$] $*" >&2 || :; }
wrong() { echo "restore-cluster.sh: $*" >&2 || :; exit 2; }
fail() {
  say "FAILED: $*"
  [ -z "$socket" ] || { signal_servers QUIT; rm -rf "$socket"; }
  [ ! -d "$aside" ] || say "the data directory as it was is $aside"
  exit 1
}
as_postgres() { runuser -u postgres -- "$@"; }
plain='' version=
version_of() { runuser -u postgres -- timeout 5 head -c 3 "$1/PG_VERSION"; }
closed() ( # DATA PORT DATABASE COMMAND...: it ends after $within seconds, where that is set
  options="-c search_path=pg_catalog,pg_temp -c role=none -c local_preload_libraries= \
    -c session_replication_role=replica -c row_security=off"
  [ -n "${plain:-}" ] || options="$options -c standard_conforming_strings=on \
    -c statement_timeout=${within:-0}s -c lock_timeout=${within:-30}s -c idle_session_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_deferrable=off -c default_transaction_isolation=read\\ committed \
    -c default_tablespace= -c temp_tablespaces= -c default_table_access_method=heap \
    -c quote_all_identifiers=off -c transform_null_equals=off -c client_min_messages=warning \
    -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c extra_float_digits=1 \
    -c array_nulls=on -c backslash_quote=safe_encoding -c xmloption=content \
    -c exit_on_error=off -c temp_file_limit=-1 -c lc_messages=C -c synchronous_commit=local"
  [ -n "${plain:-}" ] || options="$options -c log_statement=none -c log_min_duration_statement=-1 \
    -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 \
    -c log_min_error_statement=panic -c track_activities=off -c pg_stat_statements.track=none"
  [ -n "${version:-}" ] || version=$(version_of "$1") || :
  case $version in
    1[0-6]) ;;
    *) options="$options -c event_triggers=off -c transaction_timeout=0" ;;
  esac
  port=$2 database=$3
  shift 3
  path=/usr/lib/postgresql/${version%%[!0-9]*}/bin:/usr/local/bin:/usr/bin:/bin
  runuser -u postgres -- ${within:+timeout "$within"} env -i LC_ALL=C PATH="$path" \
    PGOPTIONS="$options" PGCLIENTENCODING=UTF8 PGPORT="$port" PGDATABASE="$database" "$@"
)
closed_psql() ( # DATA PORT DATABASE [OPTION...]
  kind="SELECT pg_catalog.count(pg_catalog.set_config('restrict_nonsystem_relation_kind',"
  known="WHERE pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL"
  data=$1 port=$2 database=$3
  shift 3
  { [ -z "${plain:-}" ] || echo 'SET statement_timeout = 0;'; echo :closed; cat; } |
    closed "$data" "$port" "$database" psql -XAtqw -v ON_ERROR_STOP=1 \
    -v VERBOSITY=terse -v closed="$kind 'view,foreign-table', false)) AS _ $known \\gset" \
    -v open="$kind '', false)) AS _ $known \\gset" "$@"
)

# What lies beside the data directory root touches only where the way there is all root's: anybody
# else could turn it into a link.
beside() { runuser -u "$owner" -- "$@"; }
make() {
  beside mkdir -m 700 "$1"
  [ "$owner" = postgres ] || chown postgres:postgres "$1"
}
owner=root way=$data
while way=${way%/*} && [ -n "$way" ]; do
  [ "$(stat -c %U "$way")" = root ] || owner=postgres
done
repository() { as_postgres pgbackrest --stanza="$stanza" "$@"; }
instant() { date -u -d "@$1" '+%Y-%m-%d %H:%M:%S+00'; }

# --- What is wanted ------------------------------------------------------------------------------

kind=default target='' before='' timeline=latest wanted='' without='' yes='' new_tablespaces=''
choose() {
  [ "$kind" = default ] || wrong 'give one of --latest, --time and --incremental'
  kind=$1
}
time_target() {
  ! echo "$1" | grep -Eqx '[0-9]{1,6} (second|minute|hour|day)s? ago' ||
    set -- "$(date -u -d "$1" '+%Y-%m-%d %H:%M:%S.%6N+00')"
  moment='[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?'
  echo "$1" | grep -Eqx "$moment ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)" &&
    before=$(date -u -d "$1" +%s 2>/dev/null) ||
    wrong "'$1' is not a moment with a zone: write it as '2026-11-22 14:03:00+00', or '10 minutes ago'"
  [ "$before" -le "$(date +%s)" ] || wrong "$1 is in the future"
  target=$(date -u -d "$1" '+%Y-%m-%d %H:%M:%S.%6N+00')
}
name_target() {
  point=${1#"${stanza}_"}
  [ "$point" != "$1" ] && echo "$point" | grep -Eqx 'incremental_[0-9]{8}_[0-9]{6}' ||
    wrong "'$1' is not an incremental backup: backup.sh list names them"
  digits=$(echo "$point" | tr -dc 0-9 | sed -E 's/(....)(..)(..)(..)(..)(..)/\1-\2-\3 \4:\5:\6/')
  before=$(date -u -d "$digits" +%s) || wrong "'$1' has no date in its name"
  before=$((before + 1)) target=$point
}
while [ $# -gt 0 ]; do
  case $1 in
    --latest) choose latest ;;
    --time) choose time; time_target "${2-}"; shift ;;
    --incremental) choose name; name_target "${2-}"; shift ;;
    --timeline)
      timeline=${2-}; shift
      echo "$timeline" | grep -Eqx '[1-9][0-9]*' || wrong '--timeline needs a number' ;;
    --backup)
      wanted=${2-}; shift
      echo "$wanted" | grep -Eqx '[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?' ||
        wrong '--backup needs a label, as pgbackrest info names them' ;;
    --without-last-wal) without=yes ;;
    --new-tablespaces) new_tablespaces=yes ;;
    --yes) yes=yes ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift || wrong 'the last option needs a value'
done
[ "$(id -u)" = 0 ] || wrong 'run this as root'
runs() {
  for p in /proc/[0-9]*; do
    if [ "$(cat "$p/comm" 2>/dev/null)" = "$1" ] && [ "$p/root" -ef / ]; then return 0; fi
  done
  return 1
}
enable_service() {
  case $(systemctl is-enabled "$2" 2>/dev/null) in
    masked*) systemctl -q unmask "$2" ;;
    enabled) return 0 ;;
  esac
  systemctl -q --no-reload enable "$2" 2>/dev/null
}
start_service() { restart_service "$@"; }
read_units() { [ -n "${has_read:-}" ] || systemctl daemon-reload; has_read=1; }
restart_service() { # NAME UNIT
  read_units
  before=$(started "$2")
  systemctl -q --no-block restart "$2" || return 0
  for _ in $(seq 6000); do
    [ "$(started "$2")" = "$before" ] && has_job "$2" || return 0
    sleep 0.05
  done
}
started() { systemctl show -p InvocationID --value "$1"; }
has_job() { [ -n "$(systemctl show -p Job --value "$1")" ]; }
is_failing() { [ "$(systemctl show -p NRestarts --value "$1")" -ge 3 ]; }
is_starting() { [ "$(systemctl is-active "$1")" = activating ]; }
is_started() {
  for _ in $(seq 300); do
    state=$(systemctl is-active "$2") || :
    case $state in active | reloading) return 0 ;; activating) sleep 0.1 ;; *) break ;; esac
  done
  case $state in
    activating) echo "$1 answers, but systemd still waits for its start: $(last_log "$@")" >&2 ;;
    *) echo "$1 is $state, and another process answers in its place: $(last_log "$@")" >&2 ;;
  esac
  exit 1
}
stop_service() { systemctl stop "$2"; }
own_again() { # UNIT
  has_read=
  for f in "/etc/systemd/system/$1.d"/*.conf; do
    case $f in */datatier*) continue ;; esac
    sed -Ei --follow-symlinks ':a; /\\$/ { N; ba }
      /^[ \t]*((ExecStart|User|Group|Root(Directory|Image))[ \t]*=|ExecStartPre[ \t]*=[ \t]*$)/ s/^/# /Mg' \
      "$f"
  done
}
last_log() { # NAME UNIT: its own last words, without systemd's about it; its reason, if it says one
  said=$(journalctl -q -n 30 -o cat -u "$2" | grep -v "^$2: \|^[SF][a-z]* .*$2" || :)
  why=$(printf '%s\n' "$said" | grep ' \(FATAL\|PANIC\): ' | tail -n 1)
  [ -n "$why" ] || why=$(printf '%s\n' "$said" | tail -n 3)
  [ -n "$why" ] || why=$(journalctl -q -n 3 -o cat -u "$2")
  printf '%s' "$why" | tr '\n' ' '
}

install -d -m 700 /run/datatier
exec 9>/run/datatier/backup-postgres.lock
flock -n 9 || { say 'a backup or another restore is running'; exit 75; }
trap 'fail "stopped by a signal; run it again"' INT TERM HUP

# --- What there is -------------------------------------------------------------------------------

# Lines of "cluster SYSTEM-IDENTIFIER" and
# "backup LABEL STOP SIZE TIMELINE STOP-LSN ARCHIVE LAST-WAL SYSTEM-IDENTIFIER REPOSITORY".
describe() {
  perl -MJSON::PP -e '
    my ($stanza) = @{decode_json(join "", <STDIN>)} or die "no stanza\n";
    exit if $stanza->{status}{code} == 2;
    die "$stanza->{status}{message}\n" if $stanza->{status}{code};
    print "cluster $_->{\"system-id\"}\n" for @{$stanza->{db}};
    my %cluster = map { $_->{id} => $_->{"system-id"} } @{$stanza->{db}};
    my %archive = map { $_->{database}{id} => $_->{id} } @{$stanza->{archive}};
    print "backup $_->{label} $_->{timestamp}{stop} $_->{info}{size} ",
      substr($_->{archive}{stop}, 0, 8), " ", $_->{lsn}{stop} // "FFFFFFFF/FFFFFFFF", " ",
      $archive{$_->{database}{id}} // "none", " ", $_->{archive}{stop}, " ",
      $cluster{$_->{database}{id}}, " ", $_->{database}{"repo-key"}, "\n" for grep { !$_->{error} } @{$stanza->{backup}};
  ' 2>&1
}
# repo-ls and repo-get, of the archive that belongs to the backup.
archive() {
  repository --log-level-stderr=error --repo="$number" "$1" "archive/$stanza/$archive${2:+/$2}" ||
    fail "the repository does not answer"
}
# The last segment of a timeline in the archive, if there is one.
last_segment() {
  said=$(archive repo-ls) || exit
  directory=$(echo "$said" | grep -Ex "$1[0-9A-F]{8}" | sort | tail -n 1)
  [ -n "$directory" ] || return 0
  said=$(archive repo-ls "$directory") || exit
  echo "$said" | sed -nE 's/^([0-9A-F]{24})-.*/\1/p' | sort | tail -n 1
}
# Of the backups that ended in time the last one from which the timeline can be reached: it was
# made on that timeline, or on an earlier one before that was left.
choose_backup() {
  known=''
  # Asked for all at once, pgBackRest of Debian 12 reads the second with the passphrase of the first.
  for number in $(sed -nE 's/^repo([0-9])-(path|host)=.*/\1/p' /etc/pgbackrest.conf); do
    said=$(repository --log-level-stderr=error --repo="$number" info --output=json 2>&1) ||
      fail "the repository does not answer: $(echo "$said" | head -n 1)"
    said=$(echo "$said" | describe) || fail "the repository has nothing to restore: $said"
    known=$(printf '%s\n' "$known" "$said")
  done
  cluster=$(echo "$known" | awk '$1 == "cluster" { id = $2 } END { print id }')
  candidates=$(echo "$known" | awk -v before="${before:-$(date +%s)0}" -v wanted="$wanted" '
    $1 == "backup" && $3 < before && (wanted == "" || $2 == wanted)' | sort -k 2,2)
  none="the repository has no backup${wanted:+ $wanted}${before:+ that ended before $(instant \
    "$before")}"
  [ -n "$candidates" ] || fail "$none"
  # Timelines of another cluster have the same numbers.
  set -- $(echo "$candidates" | awk 'END { print $7, $9, $10 }')
  archive=$1 number=$3
  candidates=$(echo "$candidates" | awk -v of="$2" '$9 "" == of ""')
  histories=$(archive repo-ls) || exit
  histories=$(echo "$histories" | sed -nE 's/^([0-9A-F]{8})\.history$/\1/p')
  case $timeline in
    latest) followed=$({ echo "$histories"; echo "$candidates" | awk '{ print $5 }'; } |
      sort | tail -n 1) ;;
    *) followed=$(printf %08X "$timeline") ;;
  esac
  history=''
  if echo "$histories" | grep -qx "$followed"; then
    history=$(archive repo-get "$followed.history") || exit
  fi
  set -- $({ echo "$history" | sed 's/^/left /'; echo "$candidates"; } |
    awk -v followed="$followed" -v wanted="$wanted" '
    function position(lsn, part, digits) {
      split(lsn, part, "/")
      digits = sprintf("%8s%8s", part[1], part[2])
      gsub(/ /, "0", digits)
      return "at " digits
    }
    $1 == "left" && NF > 2 { left[sprintf("%08X", $2)] = position($3) }
    $1 == "backup" && (wanted != "" || $5 "" == followed "" ||
      ($5 in left && position($6) <= left[$5])) { line = $2 " " $4 " " $8 " " $10 }
    END { print line }')
  [ $# = 4 ] || fail "$none from which timeline $((0x$followed)) can be reached"
  label=$1 size=$2 last_wal=$3 number=$4
  room=$(df --output=avail -B1 "${data%/*}" | tail -n 1)
  needed=$((size + 268435456))
  [ "$room" -ge "$needed" ] || fail "${data%/*} has $((room >> 20)) MB free and $label needs" \
    "$((needed >> 20)): make room, for instance of earlier main.before_* and main.interrupted_*"
}
choose_backup

case $kind in
  time) goal="$target, timeline $timeline" type=time action=--target-action=promote ;;
  name) goal="restore point $target, timeline $timeline" type=name action=--target-action=promote ;;
  *) goal="the end of the archive, timeline $timeline" type=default action='' ;;
esac

# The first timeline has no history, and pgBackRest looks for one.
follow=$timeline
[ "$timeline" != 1 ] || follow=current

[ ! -e "$data/standby.signal" ] ||
  fail "this server is a standby: restore the one that leads, or promote this one first"
if [ -n "$(ls -A "$data" 2>/dev/null)" ]; then
  if mountpoint -q "$data"; then fail "$data is a mount point: empty it yourself first"; fi
  [ -z "$(ls -A "$data/pg_tblspc" 2>/dev/null)" ] || fail "$data has tablespaces: move them first"
  aside=$data.before_$stamp
  [ ! -e "$marker" ] || aside=$data.interrupted_$stamp
  if [ -z "$yes" ]; then
    say "would stop PostgreSQL, move $data to $aside, restore $label and recover to $goal"
    aside=''
    wrong "$data is not empty: add --yes to do that"
  fi
fi

[ -n "$aside" ] || [ ! -d "$data" ] || as_postgres test -O "$data" ||
  fail "$data is not postgres's: chown postgres:postgres $data, then run this again"

# --- Stop ----------------------------------------------------------------------------------------

# A container's show here as well, with another root. Only the user of a process may always look at
# its root: root needs CAP_SYS_PTRACE for it, which a container does not have.
servers() {
  for p in /proc/[0-9]*; do
    case "$(cat "$p/cmdline" 2>/dev/null | tr '\0' ' ') " in
      */postgres\ -D\ $data\ *) ! as_postgres test "$p/root" -ef / || echo "${p#/proc/}" ;;
    esac
  done
}
signal_servers() { for p in $(servers); do kill -s "$1" "$p" 2>/dev/null || true; done; }

# What the server wrote last can only be restored when it is in the repository.
flush() {
  mine=$(as_postgres "$bin/pg_controldata" "$data" 2>/dev/null | sed -n 's/^Database system identifier: *//p')
  [ "$mine" = "$cluster" ] || return 0
  # Without a record of its own the switch would do nothing, and name a segment not yet begun.
  last=$(psql_live "SELECT pg_walfile_name(pg_create_restore_point('before_restore_$stamp'))" \
    2>/dev/null) || return 0
  psql_live 'SELECT pg_switch_wal()' >/dev/null || :
  for _ in $(seq 60); do
    done=$(psql_live "SELECT last_archived_wal >= '$last' COLLATE \"C\" FROM pg_stat_archiver") ||
      break
    [ "$done" != t ] || { say "the running server's WAL is archived"; return 0; }
    sleep 1
  done
  why="what the running server wrote last ($last) is not archived"
  case $kind$without in
    default | latest) fail "$why and would be lost: PostgreSQL was left as it is; see its log, or" \
      "add --without-last-wal" ;;
  esac
  say "$why"
}
psql_live() { printf '%s\n' "$1" | closed_psql "$data" 5432 postgres; }

flush
# The running server may just have archived the history of its timeline.
choose_backup
say "restoring $label to $goal"
# Without its files a server has nothing to save, and waits for its clients for ever.
[ -e "$data/postmaster.pid" ] || signal_servers QUIT
stop_service postgres postgresql@17-main.service || true
signal_servers INT
for _ in $(seq 300); do [ -n "$(servers)" ] || break; sleep 0.2; done
signal_servers QUIT
for _ in $(seq 50); do [ -n "$(servers)" ] || break; sleep 0.2; done
[ -z "$(servers)" ] || fail "PostgreSQL does not stop: process $(servers | tr '\n' ' ')"
say 'PostgreSQL is stopped'

# --- Restore -------------------------------------------------------------------------------------

if [ -n "$aside" ]; then
  beside mv -T "$data" "$aside"
  say "$data is now $aside"
fi
[ -d "$data" ] || make "$data"
as_postgres chmod 700 "$data"
beside sh -c 'rm -f "$2"; echo "$1" >"$2"' sh "$stamp" "$marker"
# restore TYPE TARGET; the end of a backup is on its own timeline.
restore() {
  as_postgres pgbackrest --stanza="$stanza" --repo="$number" --set="$label" --type="$1" ${2:+"--target=$2"} $action \
    "$path=$follow" --process-max=2 $delta restore 9>&- ||
    fail "pgBackRest could not restore $label"
  say "$label is restored"
}
delta='' path=--target-timeline
restore "$type" "$target"

# --- Recover: closed to clients, until it is known where recovery ended --------------------------

socket=$(mktemp -d /run/datatier-restore.XXXXXX)
chown postgres: "$socket"
query() { printf '%s\n' "$1" | closed_psql "$data" 5432 postgres -h "$socket"; }
ask() { query "$1" || fail "PostgreSQL does not answer: $1"; }
recovery_failed() {
  said=$(as_postgres cat "$log")
  # What ends it may be followed by what other processes say of that.
  failures=$(echo "$said" | grep -E 'FATAL|PANIC|ERROR' | grep -v 'not accepting connections') || :
  why=$(echo "$failures" | grep 'before configured recovery target' || echo "$failures" | tail -n 1)
  location=$(echo "$said" | sed -n 's/.*Tablespace\/CREATE: [0-9]* "\(.*\)"$/\1/p' | tail -n 1)
  case $why in
    *'before configured recovery target'*)
      why="$why: the WAL does not reach it on timeline $timeline (--timeline chooses another)" ;;
    *'could not '*' symbolic link'*)
      why="the WAL creates a tablespace in $location, and what is there now may be newer: choose a
        backup that has it (--backup), or move the content of such directories away and add
        --new-tablespaces" ;;
  esac
  fail "recovery: $(echo ${why:-see $log})"
}

# It archives nothing: what comes of a recovery that misses its goal must not become the newest
# timeline. What it leaves to archive the service archives.
start_recovery() {
  set -- config_file="$config" archive_command="''" hot_standby=off listen_addresses="''" \
    port=5432 unix_socket_directories="$socket" external_pid_file="$socket/pid" \
    logging_collector=off log_destination=stderr lc_messages=C max_logical_replication_workers=0
  # Recovery would follow a link that it makes, and write old pages to newer files.
  [ -n "$new_tablespaces" ] || as_postgres chmod 500 "$data/pg_tblspc"
  beside sh -c 'rm -f "$1"; : >"$1"' sh "$log"
  [ "$owner" = postgres ] || chown postgres "$log"
  as_postgres "$bin/pg_ctl" start -s -w -t 604800 -D "$data" -l "$log" \
    -o "$(printf -- '-c %s ' "$@")" >/dev/null 2>&1 9>&- || recovery_failed
  until query 'SELECT 1' >/dev/null 2>&1; do
    [ -n "$(servers)" ] || recovery_failed
    sleep 0.5
  done
  as_postgres chmod 700 "$data/pg_tblspc"
  now=$(ask 'SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)')
  end=$(ask "SELECT pg_read_file('pg_wal/$now.history')" | grep . | tail -n 1)
  parent=$(echo "$end" | cut -f 1) lsn=$(echo "$end" | cut -f 2) reason=$(echo "$end" | cut -f 3)
}
stop_recovery() { as_postgres "$bin/pg_ctl" stop -s -w -t 3600 -m fast -D "$data"; }

# The LSN of the last commit that was replayed; nothing, if the backup itself ends with it.
last_commit() {
  wal=$data.wal.$stamp to=$lsn
  make "$wal"
  n=$(((0x${lsn%/*} << 8) + ((0x${lsn#*/} - 1) >> 24)))
  first=$((0x$(echo "$last_wal" | cut -c 9-16) * 256 + 0x$(echo "$last_wal" | cut -c 17-)))
  commit=''
  while [ -z "$commit" ] && [ "$n" -ge "$first" ]; do
    segment=$(printf '%08X%08X%08X' "$parent" $((n >> 8)) $((n & 255)))
    from=$(printf '%X/%X' $((n >> 8)) $(((n & 255) << 24)))
    repository --repo="$number" archive-get "$segment" "$wal/$segment" || fail "WAL segment $segment is missing"
    said=$(as_postgres "$bin/pg_waldump" --rmgr=Transaction --path="$wal" --timeline="$parent" \
      --start="$from" --end="$to") || fail "pg_waldump cannot read $segment"
    commit=$(echo "$said" | sed -n 's/.* lsn: \([0-9A-F/]*\), prev .* desc: COMMIT.*/\1/p' |
      tail -n 1)
    to=$from n=$((n - 1))
  done
  beside rm -rf "$wal"
}

start_recovery
case $kind in
  time) echo "$reason" | grep -Eq '^(before|after) ' || missed=yes ;;
  name) [ "$reason" = "at restore point \"$target\"" ] || missed=yes ;;
  *) # A segment that is missing ends recovery without a word, also one before the timeline begins.
    fork=$(ask "SELECT pg_read_file('pg_wal/$now.history')" | grep . | tail -n 2 | head -n 1 |
      cut -f 2)
    [ "$(ask "SELECT '$lsn'::pg_lsn >= '$fork'")" = t ] ||
      missed="timeline $parent begins later, at $fork"
    [ "$parent" -ge $((0x$followed)) ] || missed="the archive goes on to timeline $((0x$followed))"
    reached=$(ask "SELECT pg_walfile_name('$lsn')" | cut -c 9-)
    last=$(last_segment "$(printf %08X "$parent")")
    [ "$(printf '%s\n' "$reached" "${last#????????}" | sort | tail -n 1)" = "$reached" ] ||
      missed="the archive goes on to $last" ;;
esac
# A database or tablespace loses its files before the commit that says so, and recovery to a moment
# ends before the first commit after it.
half_dropped() {
  ask "SELECT EXISTS (SELECT FROM pg_database WHERE datconnlimit = -2)
    OR EXISTS (SELECT FROM pg_tablespace t WHERE spcname NOT IN ('pg_default', 'pg_global')
      AND t.oid::text NOT IN (SELECT pg_ls_dir('pg_tblspc')))"
}
if [ "$kind" = time ] && [ -z "${missed-}" ] && [ "$(half_dropped)" = t ]; then
  stop_recovery
  last_commit
  say "a DROP had begun: recovering again, to the last commit before $target"
  delta=--delta
  [ -n "$commit" ] || path=--recovery-option=recovery_target_timeline follow=current
  if [ -n "$commit" ]; then restore lsn "$commit"; else restore immediate ''; fi
  start_recovery
fi
for parameter in restore_command recovery_target recovery_target_name recovery_target_time \
  recovery_target_lsn recovery_target_action recovery_target_timeline; do
  ask "ALTER SYSTEM RESET $parameter"
done
stop_recovery
rm -rf "$socket"
socket=''
# This is a whole cluster now, which somebody may start and keep, wherever it ended.
beside rm -f "$marker"
[ -z "${missed-}" ] || fail "recovery ended at $lsn ($reason), not at $goal: ${missed#yes};" \
  "PostgreSQL is stopped"
say "recovered to $lsn ($reason)"

# --- Start ---------------------------------------------------------------------------------------

exec 9>&-
start_service postgres postgresql@17-main.service
for _ in $(seq 300); do
  if psql_live 'SELECT 1' >/dev/null 2>&1; then
    say "PostgreSQL answers; it is on timeline $((0x$now)) now"
    [ -z "$aside" ] || say "$aside can be removed once you have checked the result"
    say 'the next incremental backup takes a full one by itself'
    exit 0
  fi
  sleep 0.2
done
fail "PostgreSQL does not answer: $(last_log postgres postgresql@17-main.service)"
