"""Every new TCP connection of this host, reported once."""

__version__ = "0.1.0"
