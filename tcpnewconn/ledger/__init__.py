"""The sums of the journal's entries, day by day. The service does not depend on it."""
