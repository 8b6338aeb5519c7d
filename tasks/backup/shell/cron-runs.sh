# Jobs start only while cron runs; one that is halted still has its place among the processes.
pid=$(cat /run/crond.pid 2>/dev/null) || pid=none
case $(cat "/proc/$pid/stat" 2>/dev/null) in
  "$pid (cron) "[Tt]*) echo 'cron is halted: no job starts'; exit 1 ;;
  "$pid (cron) "*) ;;
  *) echo 'cron does not run: no job starts'; exit 1 ;;
esac
