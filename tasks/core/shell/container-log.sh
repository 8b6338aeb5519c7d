last_log() { docker logs --tail 3 "$2" 2>&1 | tr '\n' ' '; }
