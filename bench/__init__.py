"""Measures what tcpnewconn costs on this machine, beside its goals and beside other tools."""
