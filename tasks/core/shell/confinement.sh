# What has it already was tried before it came. A container may not let systemd do this.
grep -qsx RestrictNamespaces=true /etc/systemd/system/*.service /etc/systemd/system/*.d/datatier.conf || (
  set --
  while IFS= read -r property; do set -- "$@" -p "$property"; done <<END
$properties
END
  systemd-run --quiet --wait --collect "$@" true 2>/dev/null || echo $?
)
