"""What the journal's entries add up to, day by day, and the answers made of it. The service does not depend on it."""
