"""Who a socket belongs to: the systemd unit, the user."""
