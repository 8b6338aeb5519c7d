# One that was never told whom to watch is told later in the run.
watches() {
  case $(monitor 127.0.0.1 "$sentinel_port") in [0-9]* | *'No such master'*) ;; *) return 1 ;; esac
}
within "$seconds" watches || { echo 'the Sentinel does not answer' >&2; exit 1; }
