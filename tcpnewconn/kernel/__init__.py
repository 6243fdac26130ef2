"""What the kernel says, in its formats."""
