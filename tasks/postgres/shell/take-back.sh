# Hands have made it a primary again.
if [ -e "$handed" ] && [ ! -e "$data/standby.signal" ]; then rm "$handed"; exit; fi
[ -e "$taken" ] || mv "$handing" "$taken" 2>/dev/null || {
  echo "PostgreSQL was handed over to $(cat "$handed"), and stays so" >&2; exit 1; }
bring_back
