"""The state of the service: counters, metrics, status."""
