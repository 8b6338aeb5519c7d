# Of each key the public half, and who may read it; what is no key of ours has none.
# shellcheck disable=SC2154  # given
for each in $keys; do
  service=${each%%=*} key=${each#*=} public=
  [ -f "$key" ] && [ ! -L "$key" ] || continue
  if command -v openssl >/dev/null; then
    public=$(openssl pkey -in "$key" -passin pass: -pubout -outform DER 2>/dev/null | base64 -w0)
  fi
  echo "$service ${public:--} $(stat -c "%a $by" "$key")"
done
