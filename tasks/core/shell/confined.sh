# Something else starts as the service will: in some containers systemd cannot confine anything, and
# a service would not come up at its next start.
set --
while IFS= read -r line; do
  case $line in
    Capability* | Device* | Keyring* | Lock* | Memory* | NoNew* | Private* | Protect* | Restrict* | \
      SystemCall*) set -- "$@" -p "$line" ;;
  esac
done <<EOF
$unit
EOF
systemd-run -q --wait --collect "$@" /bin/true || {
  echo "systemd cannot start $service with fewer rights here; in a container of LXC allow nesting" >&2
  exit 1
}
