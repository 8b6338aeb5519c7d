"""PostgreSQL: its backups, the physical repository, and what brings them back."""
