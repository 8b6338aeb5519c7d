# Waits until no other run changes the host. Statuses of flock other than 1: there is none, and
# nothing waits.
umask 077
exec 9>>"$lock"
waited=0
until flock -n 9; [ $? != 1 ]; do
  if [ $((waited += 1)) -gt "$patience" ]; then
    echo "another run is changing this host: run again when it has ended" >&2; exit 1
  fi
  sleep 1
done
