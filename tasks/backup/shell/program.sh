find "$library/backup" -name __pycache__ -prune -o ! -type d -print 2>/dev/null || :
