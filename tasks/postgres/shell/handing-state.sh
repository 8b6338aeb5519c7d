for stage in handed taken-back handing; do
  [ ! -e "$state/postgres.$stage" ] || echo "$stage $(cat "$state/postgres.$stage")"
done
