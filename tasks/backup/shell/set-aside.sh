PYTHONPATH="$library" /usr/bin/python3 -P -c 'import sys
from backup.config import Config
from backup.job import Busy, Failed
from backup.passphrase import set_aside
try:
    set_aside(Config.load())
except (Busy, Failed) as failure:
    sys.exit(str(failure))'
