# What ends at once runs at any moment as well: its supervisor starts it again.
now=$(process) || :
case $now in '' | 0) echo 'does not run'; exit 1 ;; esac
sleep "$seconds"
[ "$(process)" = "$now" ] || { echo 'does not stay up'; exit 1; }
