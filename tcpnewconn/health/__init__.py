"""How the service fares: counters, metrics, status."""
