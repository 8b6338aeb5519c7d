pids=${pids-}
# A file that is newer than the record was changed since: by hand, and perhaps loaded by hand.
recorded() { # NAME PROGRAM PORT LISTENING FILE...: its record; ` !` after it where a file is newer
  record=$records/$1.active program=$2 port=$3 listening=$4
  pid=${pids%% *} pids=${pids#* }
  if [ -n "$program" ] && [ -z "$pid" ]; then
    { read -r pid <"/etc/service/$1/supervise/pid"; } 2>/dev/null || :
  fi
  shift 4
  { IFS= read -r line <"$record"; } 2>/dev/null || line='none none'
  for f; do if [ "$f" -nt "$record" ]; then line="$line !"; fi; done
  # It listens, and not where others ask: its address came after it.
  if [ -n "$port" ] &&
    grep -Eqs ":$port [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6 &&
    ! grep -Eqs "$listening" /proc/net/tcp /proc/net/tcp6; then line="deaf ${line#* }"; fi
  # dpkg has put another file in its place; what runs has none any more.
  if [ -n "$program" ] && [ -e "/proc/${pid:-0}/exe" ] && ! [ "/proc/$pid/exe" -ef "$program" ]; then
    case $(readlink "/proc/$pid/exe") in *' (deleted)') line="program ${line#* }" ;; esac
  fi
  echo "$line"
}
