# shellcheck disable=SC2154  # given
if [ -n "$others" ] && command -v ip >/dev/null; then
  for other in $others; do echo "route get $other"; done | ip -o -force -batch - 2>/dev/null || :
fi
