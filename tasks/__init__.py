"""Tasks: one noun, one module."""
