# shellcheck disable=SC2154  # given
if command -v nft >/dev/null; then
  wanted=$(wanted_table)
  printf '%s\n' "$wanted" | sed 's/^/wanted /'
  present_table | sed 's/^/now /'
  echo "unit $(systemctl is-active "$unit") $(systemctl is-enabled "$unit" 2>/dev/null)"
fi
