# shellcheck disable=SC2046,SC2086  # names of units have no blanks
states=$(systemctl show -p ActiveState,SubState $units) || exit 1
printf '%s\n' "$states" | awk -v RS= '{ $1 = $1; print }'
expected=$(set -- $enabled_by; echo $#)
set -- $(systemctl is-enabled $enabled_by 2>/dev/null)
# Of a unit that is not there an older systemctl prints nothing.
if [ $# != "$expected" ]; then
  set --
  for u in $enabled_by; do set -- "$@" "$(systemctl is-enabled "$u" 2>/dev/null || :)"; done
fi
for word; do echo "${word:-no}"; done
