"""The figures that tcpnewconn is to reach, measured on this machine against what it is compared with."""
