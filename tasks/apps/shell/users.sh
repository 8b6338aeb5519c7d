# Tells of an application's user what it is, and whether it gets to its program and directory.
look_for() { # USER PROGRAM DIRECTORY
  comment=$(getent passwd "$1" | cut -d : -f 5)
  ! getent passwd "$1" >/dev/null || comment=${comment:-none}
  # One that is still to come can do what the user nobody can.
  uid=$(id -u "$1" 2>/dev/null) || uid=65534
  fits=no enters=no unit=
  if become "$uid" timeout 5 test -f "$2" -a -x "$2"; then fits=yes; fi
  if become "$uid" timeout 5 test -d "$3" -a -x "$3"; then enters=yes; fi
  for place in /usr/lib/systemd/system /lib/systemd/system; do
    if [ -e "$place/$1.service" ]; then unit=$place/$1.service; fi
  done
  printf '%s|%s|%s|%s|%s\n' "$(printf '%s' "$comment" | tr '|' ' ')" \
    "$(getent group "$1" | cut -d : -f 1)" "$fits" "$enters" "$unit"
}
