# shellcheck disable=SC2154  # given
if command -v nft >/dev/null; then
  wanted=$(wanted_table) || exit
  printf '%s\n' "$wanted" | sed 's/^/wanted /'
  present_table | sed 's/^/now /'
  systemctl show -p ActiveState -p UnitFileState "$unit" | sed 's/^/unit /; s/$/ /'
  systemctl show -p DropInPaths "$other" | sed 's/^/unit /'
fi
