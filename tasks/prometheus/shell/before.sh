# Their packages enable them: a boot before they are configured would open them to all.
quiet() { # FILE ARGUMENTS
  [ -e "$1" ] || printf '# %s; changes are overwritten.\nARGS="%s"\n' "$monitoring_mark" "$2" >"$1"
}
quiet /etc/default/prometheus --web.listen-address=127.0.0.1:9090
quiet /etc/default/prometheus-alertmanager '--web.listen-address=127.0.0.1:9093 --cluster.listen-address='
