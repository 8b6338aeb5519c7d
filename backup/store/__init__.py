"""Copies off the host, in a bucket."""
