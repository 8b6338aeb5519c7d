# Runs as the connecting user, before it is known whether sudo is needed.
. /etc/os-release; echo "$ID $VERSION_ID"
[ -d /run/systemd/system ] && echo systemd || echo none
m=$(awk '/^MemTotal/ {print $2}' /proc/meminfo)
# shellcheck disable=SC2164  # where there is none, nothing is found there
cd /sys/fs/cgroup 2>/dev/null
l=$(cat memory.max memory/memory.limit_in_bytes 2>/dev/null | head -n 1)
case $l in ''|max) l=$((m * 1024)) ;; esac
[ ${#l} -gt 18 ] || [ $((l / 1024)) -gt "$m" ] || m=$((l / 1024)); echo "$m"
id -u
said=$(LC_ALL=C sudo -n true 2>&1) && echo sudo ||
  case $said in *tty*) echo tty ;; *) echo no ;; esac
