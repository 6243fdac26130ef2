"""Who a socket belongs to."""
