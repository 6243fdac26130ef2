"""The owner of a socket: user, unit, process, container."""
