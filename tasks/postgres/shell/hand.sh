# The other one has all that this one has written: from here on it leads.
number() { echo $((0x${1%/*} * 4294967296 + 0x${1#*/})); }
has=$(number "$position") needs=$(number "$(ended 'Latest checkpoint location')")
[ "$has" -gt "$needs" ] || { echo "it lacks $((needs - has)) bytes" >&2; exit 1; }
mv "$handing" "$handed" || { echo 'it took too long' >&2; exit 1; }
