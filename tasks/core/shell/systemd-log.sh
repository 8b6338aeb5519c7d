last_log() { # NAME UNIT: its own last words, without systemd's about it; its reason, if it says one
  said=$(journalctl -q -n 30 -o cat -u "$2" | grep -v "^$2: \|^[SF][a-z]* .*$2" || :)
  why=$(printf '%s\n' "$said" | grep ' \(FATAL\|PANIC\): ' | tail -n 1)
  [ -n "$why" ] || why=$(printf '%s\n' "$said" | tail -n 3)
  [ -n "$why" ] || why=$(journalctl -q -n 3 -o cat -u "$2")
  printf '%s' "$why" | tr '\n' ' '
}
