# Reads what apt knows; its options may come before the names.
candidates() { # PACKAGES
  apt-cache policy "$@" | awk '
    /^[^ ]/ { name = $1; sub(/:$/, "", name); security = above = 0 }
    $1 == "Installed:" { now = $2 }
    $1 == "Candidate:" { to = $2; if (now != to && to != "(none)") wanted = 1; else wanted = 0 }
    $1 == "Version" { above = 1 }
    /^ \*\*\* / { if (wanted) print name, now, to, security ? "security" : "other"; above = 0 }
    above && /-security[\/ ]/ { security = 1 }' |
    while read -r name now to kind; do
      ! dpkg --compare-versions "$to" gt "$now" || echo "$name $now $to $kind"
    done
}
