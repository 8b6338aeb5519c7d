wanted=$(wanted_table 2>/dev/null) || { echo "nft does not answer"; exit 1; }
now=$(present_table)
[ -n "$now" ] || { echo "off: its table is not loaded"; exit 1; }
[ "$now" = "$wanted" ] || [ "$(present_settings)" = "$wanted" ] || { echo "its rules are not those of the settings"; exit 1; }
echo "on"
