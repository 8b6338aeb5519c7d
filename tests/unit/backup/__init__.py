"""The backup program, without a server."""
