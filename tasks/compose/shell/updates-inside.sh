export LC_ALL=C
work=$(mktemp -d)
tar -C "$work" -x
# A list that could not be read would say that nothing is due.
timeout 300 apt-get -q -o APT::Update::Error-Mode=any update >"$work.log" 2>&1 || {
  echo "apt-get update: $(grep '^[EW]: ' "$work.log" | head -n 1)" >&2; exit 1; }
for status in "$work"/*; do
  echo "image ${status##*/}"
  # What another build would do: an upgrade of the base, and an installation of what is newest.
  plan=$(apt-get -s -o Debug::NoLocking=1 -o Dir::State::status="$status" \
    upgrade --with-new-pkgs 2>&1) || { echo "apt-get upgrade: $(echo "$plan" | tail -n 1)" >&2; exit 1; }
  names=$(echo "$plan" | sed -n 's/^Inst \([^ ]*\) \[.*/\1/p')
  # shellcheck disable=SC2086  # names of packages have no blanks
  [ -z "$names" ] || candidates -o Dir::State::status="$status" $names | sed 's/^/due /'
done
