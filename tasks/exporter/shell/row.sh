demands || exit 1
told=$(ask "Authorization: Basic $BASIC")
case $told in *' 200 '*) ;; *) echo "refuses the password"; exit 1 ;; esac
echo "$(printf '%s\n' "$told" | grep -c '^node_') metrics, with the password"
