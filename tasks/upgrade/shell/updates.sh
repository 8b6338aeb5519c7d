# shellcheck disable=SC2086  # names of packages have no blanks
export LC_ALL=C
release=$(sed -n 's/^VERSION_ID="\{0,1\}\([0-9]*\).*/\1/p' /etc/os-release)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A list that cannot be read again is no reason to leave the others; no lock is waited for long.
timeout 300 apt-get -q -o DPkg::Lock::Timeout=30 update >"$log" 2>&1 </dev/null || :
grep '^[EW]: ' "$log" | head -n 1 | sed 's/^[EW]: /stale /'
there=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' $names 2>/dev/null | sed -n 's/^.i  *//p')
held=" $(apt-mark showhold | tr '\n' ' ')"
[ -z "$there" ] || candidates $there |
  while read -r name now to kind; do
    # Whatever else it would do: a package of another release, a new major version, a removal.
    plan=$(apt-get -s -o Debug::NoLocking=1 install --only-upgrade "$name=$to" 2>"$log" </dev/null) || {
      echo "kept $name $to $(grep '^E: ' "$log" | tail -n 1)"; continue
    }
    new=$(echo "$plan" | awk '/^Inst / && $3 !~ /^\[/ { print $2; exit }')
    gone=$(echo "$plan" | awk '/^Remv / { print $2; exit }')
    of=$(echo "$plan" | sed -n 's/^Inst .*Debian\(-Security\)\{0,1\}:\([0-9]*\).*/\2/p' |
      grep -vx "$release" | head -n 1)
    major_now=${now#*:} major_to=${to#*:}
    why=
    case $held in *" $name "*) why='it is held: apt-mark unhold' ;; esac
    [ -z "$new" ] || why="it would install $new, which is not there"
    [ -z "$gone" ] || why="it would remove $gone"
    [ -z "$of" ] || why="that is of Debian $of"
    case $major_now in
      *[0-9].*) [ "${major_now%%.*}" = "${major_to%%.*}" ] || why='that is another major version' ;;
    esac
    if [ -n "$why" ]; then echo "kept $name $to $why"; else echo "due $name $now $to $kind"; fi
  done
