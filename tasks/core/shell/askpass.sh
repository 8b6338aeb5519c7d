# A program that prints the password, where the host lets programs be: /tmp may be mounted noexec.
umask 077
for place in "${TMPDIR:-/tmp}" "$HOME" /var/tmp; do
  f=$(mktemp -p "$place" 2>/dev/null) || continue
  printf '#!/bin/sh\ncat <<"__END__"\n%s\n__END__\n' "$PASSWORD" >"$f"
  chmod 700 "$f"
  if "$f" >/dev/null 2>&1; then printf '%s\n' "$f"; exit 0; fi
  rm -f "$f"
done
echo "no directory lets its programs run, since they are mounted noexec" >&2
exit 1
