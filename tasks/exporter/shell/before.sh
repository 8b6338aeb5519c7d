# Its package enables it: a boot before it is configured would open it to all.
[ -e "$defaults" ] ||
  printf '# %s; changes are overwritten.\nARGS="--web.listen-address=127.0.0.1:9100"\n' "$mark" >"$defaults"
