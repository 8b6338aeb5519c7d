# Each listening socket on a wanted port: its address as the kernel writes it, its process, the control
# group and the parent.
# What a program calls itself may be any text; most is plain, and read without another program.
plain() { # FILE: sets `text`
  text=
  while IFS= read -r line; do text="$text$line "; done 2>/dev/null <"$1"
  case $text in *[\|[:cntrl:]]*) text=$(tr '\000-\037|' ' ' <"$1" 2>/dev/null) ;; esac
}
# Sets `name` and `parent` of a process.
look_up() {
  name='' parent=
  while read -r key value; do
    case $key in Name:) name=$value ;; PPid:) parent=$value; break ;; esac
  done 2>/dev/null <"/proc/$1/status"
}
# Sets `parent`, or runit's supervisor further up: what listens may be started by what is supervised.
supervisor() {
  look_up "$1"; direct=$parent
  while [ "${parent:-0}" -gt 1 ]; do
    each=$parent; look_up "$each"
    if [ "$name" = runsv ]; then parent=$each; return; fi
  done
  parent=$direct
}
inodes=$(awk -v want="$ports" '
  BEGIN { n = split(want, w, " "); for (i = 1; i <= n; i++) p[w[i]] = 1 }
  $4 == "0A" { split($2, at, ":"); if (at[2] in p) print $10 "=" at[2] "|" at[1] }
' /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort -u)
[ -n "$inodes" ] || exit 0
set --
for i in $inodes; do set -- "$@" -o -lname "socket:\\[${i%=*}\\]"; done
shift
find /proc/[0-9]*/fd -maxdepth 1 \( "$@" \) -printf '%p %l\n' 2>/dev/null |
while read -r path socket; do
  pid=${path#/proc/}; pid=${pid%%/*}
  inode=${socket#socket:\[}; inode=${inode%]}
  for i in $inodes; do [ "${i%=*}" = "$inode" ] && where=${i#*=}; done
  # A process listens at several addresses, and most have the same parent.
  if [ "$pid" != "${last:-}" ]; then
    last=$pid
    plain "/proc/$pid/comm"; said=$text
    plain "/proc/$pid/cgroup"; said="$said|$text"
    supervisor "$pid"
  fi
  if [ "$parent" != "${above:-}" ]; then
    above=$parent title=$(tr '\000-\037|' ' ' <"/proc/$parent/cmdline" 2>/dev/null)
  fi
  echo "$where|$pid|$said|$title"
done | sort -t'|' -k1,1 -k3,3n
