systemctl -q disable --now datatier-host.timer 2>/dev/null || :
rm -f /etc/needrestart/conf.d/datatier.conf
rmdir --ignore-fail-on-non-empty -p /etc/needrestart/conf.d 2>/dev/null || :
