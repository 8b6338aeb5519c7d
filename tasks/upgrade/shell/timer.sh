systemctl daemon-reload
systemctl -q enable datatier-host.timer
systemctl restart datatier-host.timer
