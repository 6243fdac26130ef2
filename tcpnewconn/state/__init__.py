"""The state that outlives a restart."""
