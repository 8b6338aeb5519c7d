# shellcheck disable=SC2154  # given
error=$(nft -f "$rules_file" 2>&1) || {
  echo "the firewall could not be loaded: $(printf '%s\n' "$error" | head -n 1)" >&2; exit 1; }
systemctl -q enable "$unit"
# It loads them once more, and systemd knows that they are loaded.
systemctl start "$unit"
