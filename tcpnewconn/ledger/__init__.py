"""The sums of the journal's entries, day by day, and the answers made of them. The service does not depend on it."""
