"""One network namespace, observed: polls, destroyed sockets and the trace in, events out."""
