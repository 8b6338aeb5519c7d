[ -S "$socket" ] || exit 0
console pgbouncer 10 'SHOW CONFIG' 'SHOW DATABASES'
