# Copies what is about to be replaced; a copy of an earlier time stays.
keep() { # PATH...
  install -d -m 700 "$copies"
  for each; do
    mode=$(stat -Lc %a -- "$each" 2>/dev/null) || continue
    mkdir -p "$copies${each%/*}"
    (umask 077; peek "$each" cat -- "$each" >"$copies$each.new")
    chmod "$mode" "$copies$each.new"
    mv -T --backup=numbered -- "$copies$each.new" "$copies$each"
  done
}
