"""What is new. Pure: no I/O, no clock."""
