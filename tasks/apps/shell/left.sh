# Users that we have made for applications.
getent passwd | awk -F : -v prefix="$prefix" -v ours="$ours" \
  'index($1, prefix) == 1 && $5 == ours { print "app", $1 }'
