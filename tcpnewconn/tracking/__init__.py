"""Decides which connections are new. Pure: no I/O, no clock."""
