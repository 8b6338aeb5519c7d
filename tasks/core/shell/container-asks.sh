# What only the host can do.
restart_service() { echo '!restart'; }
again() { restart_service; }
