"""The kernel's data, in its formats."""
