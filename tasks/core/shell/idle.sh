# Fails, and names it, while a job of this host runs that holds a lock; but for those in $besides.
for held in /run/datatier/backup-*.lock; do
  case " $besides " in *" ${held##*/backup-} "*) continue ;; esac
  [ ! -e "$held" ] || flock -n "$held" true || {
    echo "a backup job holds $held: wait until it is done, or end it" >&2; exit 1; }
done
