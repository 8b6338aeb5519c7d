for stage in handed taken-back handing; do
  [ ! -e "$marks/postgres.$stage" ] || echo "$stage $(cat "$marks/postgres.$stage")"
done
