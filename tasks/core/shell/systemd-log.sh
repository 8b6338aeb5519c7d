last_log() { # NAME UNIT: its own last words, without systemd's about it
  said=$(journalctl -q -n 30 -o cat -u "$2" | grep -v "^$2: \|^[SF][a-z]* .*$2" | tail -n 3)
  [ -n "$said" ] || said=$(journalctl -q -n 3 -o cat -u "$2")
  printf '%s' "$said" | tr '\n' ' '
}
