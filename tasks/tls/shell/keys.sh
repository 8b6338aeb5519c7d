# Of each key the public half, and who may read it; what is no key of ours has none.
for service in $services; do
  key=$root/$service/key.pem public=
  [ -f "$key" ] && [ ! -L "$key" ] || continue
  if command -v openssl >/dev/null; then
    public=$(openssl pkey -in "$key" -passin pass: -pubout -outform DER 2>/dev/null | base64 -w0)
  fi
  echo "$service ${public:--} $(stat -c '%a %U:%G' "$key")"
done
