# Ends with one word while the host is changed.
if [ -e "$lock" ]; then
  exec 9<"$lock"
  flock -n -s 9; if [ $? = 1 ]; then echo "$busy"; exit; fi
fi
