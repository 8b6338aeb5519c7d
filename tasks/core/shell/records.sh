# A file that is newer than the record was changed since: by hand, and perhaps loaded by hand.
recorded() { # NAME PORT LISTENING FILE...: its record; ` !` after it where a file is newer
  record=$records/$1.active port=$2 listening=$3; shift 3
  { IFS= read -r line <"$record"; } 2>/dev/null || line='none none'
  for f; do if [ "$f" -nt "$record" ]; then line="$line !"; fi; done
  # It listens, and not where others ask: its address came after it.
  if [ -n "$port" ] &&
    grep -Eqs ":$port [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6 &&
    ! grep -Eqs "$listening" /proc/net/tcp /proc/net/tcp6; then line="deaf ${line#* }"; fi
  echo "$line"
}
