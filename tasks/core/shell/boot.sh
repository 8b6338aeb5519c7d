# Units that start at the next boot, each with its port. What is masked starts never.
at_boot() { # NAMES [MARK]: beginnings as grep -E takes them; units that have the mark are left out
  [ -d /run/systemd/system ] || return 0 # another init boots none of them
  units=$(printf '%s\n' /etc/systemd/system/*.wants/* | sed 's,.*/,,' | grep -E "^($1)")
  # shellcheck disable=SC2086  # names of units have no blanks
  ours=$([ -z "${2:-}" ] || { cd /etc/systemd/system && grep -ls "$2" $units </dev/null | paste -s -d ' '; })
  for unit in $units; do
    case " $ours " in *" $unit "*) continue ;; esac
    case $(systemctl is-enabled "$unit" 2>/dev/null) in enabled*) ;; *) continue ;; esac
    start=$(systemctl show -p ExecStart --value "$unit")
    case $unit-$start in
      postgresql.service-*) clusters_at_boot ;;
      postgresql@*)
        place=${unit#*@} place=${place%.service}
        place=/etc/postgresql/${place%%-*}/${place#*-}
        echo "unit $unit $(port_in "$place/postgresql.conf" port 5432)" ;;
      pgbouncer.service-*)
        echo "unit $unit $(port_in /etc/pgbouncer/pgbouncer.ini listen_port 6432)" ;;
      *-sentinel*) echo "unit $unit $(port_in "$(configuration_of "$start")" port 26379)" ;;
      *-server*) echo "unit $unit $(port_in "$(configuration_of "$start")" port 6379)" ;;
    esac
  done
}
# Debian starts the clusters with this unit, if each one's start.conf says so.
clusters_at_boot() {
  for place in /etc/postgresql/*/*/; do
    case $(peek "${place}start.conf" grep -v '^#' "${place}start.conf" 2>/dev/null) in
      *auto*) echo "unit postgresql.service $(port_in "${place}postgresql.conf" port 5432)" ;;
    esac
  done
}
configuration_of() { # EXECSTART
  printf '%s\n' "$1" | grep -o '/[^ ;]*[.]conf' | head -n 1
}
port_in() { # FILE KEY DEFAULT
  port=$(peek "$1" sed -n "s/^[[:blank:]]*$2[[:blank:]=]*\([0-9]\{1,\}\).*/\1/p" "$1" 2>/dev/null |
    tail -n 1)
  echo "${port:-$3}"
}
