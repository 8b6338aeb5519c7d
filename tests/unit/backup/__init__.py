"""The backup programme, without a server."""
