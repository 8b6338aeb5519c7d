[ -f "$page" ] || exit 1
echo $(($(date +%s) - $(stat -c %Y "$page")))
# A line of the page itself may be longer than what is read.
base64 -w 900 "$page"
