# Units of others that start at the next boot, and data that others have left.
at_boot 'redis|valkey|keydb|redict' 'Written by Datatier'
cd /var/lib/redis 2>/dev/null || exit 0
for ours in [0-9]*/redis.conf; do [ ! -e "$ours" ] || exit 0; done
for file in dump.rdb appendonly.aof appendonlydir/*.aof appendonlydir/*.rdb; do
  file=/var/lib/redis/$file
  peek "$file" test -s "$file" 2>/dev/null || continue
  case $file in *.rdb)
    ! peek "$file" redis-check-rdb "$file" 2>/dev/null | grep -q ' 0 keys read' || continue ;;
  esac
  echo "data $file"
done
