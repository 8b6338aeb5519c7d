# shellcheck shell=sh disable=SC2154  # the values come before it, with the functions of rolling.sh
# A client of the estate while its master hands over: it asks Sentinels who leads, writes there one
# after the other, and asks again when it is refused.
now() { read -r up _ </proc/uptime; now=${up%.*}${up#*.}; } # centiseconds; no clock steps in them
find_leader() {
  for each in $drill_sentinels; do
    set -- $(monitor "${each%:*}" "${each##*:}")
    case ${1:-} in [0-9]*.*) leader="$1 $2"; return 0 ;; esac
  done
  why='no Sentinel says who leads'
  return 1
}
# All instances follow that one, and all Sentinels name it and could replace it.
whole() {
  find_leader || return 1
  for each in $drill_instances; do
    [ "${each%:*} ${each##*:}" != "$leader" ] || continue
    set -- $(position "${each%:*}" "${each##*:}")
    why="$each does not follow the master $leader"
    [ "$1 $2 $5 $6" = "slave up $leader" ] || return 1
  done
  for each in $drill_sentinels; do
    said=$(monitor "${each%:*}" "${each##*:}")
    why="the Sentinel $each says ${said:-nothing}"
    case $said in "$leader OK "*) ;; *) return 1 ;; esac
  done
}
# The next number; one whose answer was lost is written again, so none is counted twice.
write() {
  said=$(echo "HSET $key $((written + 1)) 1" | ask $leader)
  case $said in 0 | 1) ;; *) return 1 ;; esac
  now
  [ $((now - last)) -le "$longest" ] || longest=$((now - last))
  last=$now written=$((written + 1))
}
# What is asked before any host hands over.
fit() {
  whole || { echo "the estate is not whole: $why" >&2; exit 1; }
}
begin() {
  fit
  written=0 longest=0; now; last=$now
  write || { echo "a client cannot write to $leader: $said" >&2; exit 1; }
  echo "EXPIRE $key 3600" | ask $leader >/dev/null
}
writing() {
  find_leader && [ "$(echo "HEXISTS $key 2" | ask $leader)" = 1 ]
}
measure() {
  find_leader || exit 1
  first=$leader written=1 longest=0 moved=; now
  last=$now end=$((now + 9000))
  # Some seconds more: an old master that is written to as well would be seen later.
  while [ "$now" -lt "${moved:-$end}" ]; do
    write || { find_leader || :; sleep 0.02; now; }
    [ -n "$moved" ] || [ "$leader" = "$first" ] || moved=$((now + 300))
  done
  if within 60 whole; then why=; fi
  kept=$(echo "HKEYS $key" | ask $leader |
    awk -v last="$written" '$1 > 0 && $1 <= last { n++ } END { print n + 0 }')
  echo "DEL $key" | ask $leader >/dev/null
  printf '%s\n' "$first" "$leader" "$longest" "$written" $((written - kept)) "$why"
}
