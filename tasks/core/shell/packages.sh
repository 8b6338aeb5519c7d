# shellcheck disable=SC2086  # names of packages have no blanks
dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\n' $names 2>/dev/null || true
if grep -qs datatier /usr/sbin/policy-rc.d; then echo '! interrupted !'; fi
