asked=$(systemctl show -p ActiveState,SubState,NRestarts,UID,MainPID,FragmentPath,DropInPaths $units) || exit 1
pids='' rest=$asked
while case $rest in *MainPID=*) ;; *) false ;; esac; do
  rest=${rest#*MainPID=}
  pids="$pids${rest%%[!0-9]*} "
done
unloaded=
for u in $units; do
  for f in /etc/systemd/system/"$u".d/*.conf /etc/systemd/system/"${u%%@*}"@.service.d/*.conf; do
    unloaded="$unloaded $u=$f"
  done
done
# Beside its states: the user as whom a unit runs, and who else says what runs or as whom.
printf '%s\n\n' "$asked" | awk -v users="$users" -v units="$units" -v unloaded="$unloaded" '
  function is_ours(file) { return file ~ /^(\/usr)?\/lib\// || file ~ /\/datatier[^\/]*\.conf$/ }
  # The last one wins. Further programs before the start are nothing to us; to have none is.
  function take(file, ours,   line, next_line, n, start, key, value) {
    while ((getline line <file) > 0) {
      start = ++n
      while (sub(/\\$/, " ", line) && (getline next_line <file) > 0) { n++; line = line next_line }
      if (line !~ /^[ \t]*(Exec(Start|StartPre)|User|Group|Root(Directory|Image))[ \t]*=/) continue
      key = value = line
      gsub(/^[ \t]*|[ \t]*=.*/, "", key)
      sub(/^[^=]*=[ \t]*/, "", value); sub(/[ \t]*$/, "", value); gsub(/[ \t]+/, " ", value)
      if (value == "" ? key == "ExecStart" : key == "ExecStartPre") continue
      if (ours) usual[key, value] = 1
      winner[key] = ours || usual[key, value] ? "" : file ":" start " (" key ")"
    }
    close(file)
  }
  function tell(   i, n, key, file, shipped, files, runs_as) {
    split("", winner); split("", usual)
    file = shipped = v["FragmentPath"]
    sub(/.*\//, "/usr/lib/systemd/system/", shipped)
    take(shipped, 1)
    take(file, is_ours(file) || !length(winner))
    n = split(v["DropInPaths"], files, " ")
    for (i = 1; i in late; i++) {
      file = late[i]
      if (sub("^[^=]*=", "", file) && index(late[i], unit[count] "=") == 1 &&
          !index(v["DropInPaths"] " ", file " ")) files[++n] = file
    }
    for (i = 1; i <= n; i++) take(files[i], is_ours(files[i]))
    # It begins again and again: `start` is the state of a server that reads its data.
    if (v["ActiveState"] == "activating" && v["NRestarts"] > 2) v["SubState"] = "failing"
    printf "ActiveState=%s SubState=%s", v["ActiveState"], v["SubState"]
    runs_as = v["UID"] ~ /^[0-9]+$/ ? name[v["UID"]] : ""
    if (runs_as && runs_as != user[count]) printf " as %s", runs_as
    for (key in winner) if (winner[key]) { printf " by %s", winner[key]; break }
    print ""
    split("", v)
  }
  BEGIN {
    split(users, user, " "); split(units, unit, " "); split(unloaded, late, " "); count = 1
    while ((getline line <"/etc/passwd") > 0) { split(line, field, ":"); name[field[3]] = field[1] }
  }
  NF { v[substr($0, 1, index($0, "=") - 1)] = substr($0, index($0, "=") + 1); next }
  length(v) { tell(); count++ }'
# shellcheck disable=SC2046,SC2086  # names of units have no blanks
expected=$(set -- $enabled_by; echo $#)
set -- $(systemctl is-enabled $enabled_by 2>/dev/null)
# Of a unit that is not there an older systemctl prints nothing.
if [ $# != "$expected" ]; then
  set --
  for u in $enabled_by; do set -- "$@" "$(systemctl is-enabled "$u" 2>/dev/null || :)"; done
fi
for word; do echo "${word:-no}"; done
