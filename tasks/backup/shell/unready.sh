! grep -q '"encryption_passphrase_previous"' "$config" 2>/dev/null ||
  PYTHONPATH="$library" /usr/bin/python3 -P -c 'from backup.config import Config
from backup.passphrase import unready
print(unready(Config.load()))'
