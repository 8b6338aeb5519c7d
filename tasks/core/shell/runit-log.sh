last_log() { tail -n 3 "/var/log/$1/current" 2>/dev/null | tr '\n' ' '; }
