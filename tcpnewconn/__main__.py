"""python3 -m tcpnewconn"""

import sys

from tcpnewconn.cli import main

sys.exit(main())
