# shellcheck disable=SC2086  # directories
user=$(grep -rlsF --include='*.conf' --include='*.ini' "$root/" $searched | head -n 1)
[ -z "$user" ] || { echo "$root stays: $user still names it; run again" >&2; exit 1; }
