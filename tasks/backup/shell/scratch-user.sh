# Whether anything is left that belongs to the user of scratch servers.
if id -u "$user" >/dev/null 2>&1; then
  if [ -n "$(find /proc -maxdepth 1 -user "$user" -print -quit 2>/dev/null)" ]; then
    echo user runs
  elif [ -n "$(find "$scratch" -maxdepth 2 -user "$user" -print -quit 2>/dev/null)" ]; then
    echo user files
  else echo user idle; fi
fi
