"""Redis: snapshots, and what brings them back."""
