# Restarts containers of Redis: replicas first, the master last, after it has handed over.
# Who leads is asked when it is about to happen.
rolled=
roll() { # NUMBER CONTAINER...
  number=$1; shift
  case " $rolled " in *" $number "*) return 0 ;; esac
  for each; do
    role=$(inside "$each" "$ROLE" 2>/dev/null) || role=
    case $round$role in
      ?slave) ;;
      1*) return 0 ;;
      # A master with another password: no client can hand over for it, and it reads ours at a start.
      2refuses) ;;
      2master) inside "$each" "$HAND_OVER" ;;
      *) echo "$each does not report its role: check its log, then run again" >&2; exit 1 ;;
    esac
  done
  "roll_$number" "$@"
  rolled="$rolled $number"
}
restarts() { # CONTAINER...
  for each; do restart_service "$each" "$each"; follows "$each"; done
}
follows() { # CONTAINER...
  for each; do inside "$each" "$FOLLOW"; done
}
leaves() { # CONTAINER...: the master of these hands over
  for each; do
    [ "$(inside "$each" "$ROLE")" = master ] || continue
    inside "$each" "$HAND_OVER"; inside "$each" "$FOLLOW"
    exit 0
  done
  echo "$1 is no longer the master: run again" >&2
  exit 1
}
