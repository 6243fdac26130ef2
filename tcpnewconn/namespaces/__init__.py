"""The network namespaces of other processes, each observed as the host's is."""
