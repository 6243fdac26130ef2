"""Histories that a tracker once got wrong, or that a mutant of it gets wrong: each a list of named steps (histories.py).

The steps after the last one are in play.py: everything is notified and polled, until nothing is left to report.
"""

RECORDED = {
    "Two that had one 4-tuple were gone when they were looked up, and their notifications are late": """
poll
    during: open r2
poll
    during: open r0
    before look-up: finish r2
    before look-up: open r2
poll
""",
    "One that was gone when it was looked up is not the one that its row shows later": """
poll
    during: open unaccepted i1
poll
    before look-up: finish i1
open i1
poll
""",
    "One was gone when it was looked up, and what is left of it stands in its row": """
open r1
open r0
poll
    during: finish r0
""",
    "The notification is of one whose 4-tuple another one has by then": """
open r0
poll
finish r0
open r0
poll
    before look-up: half close r0
""",
    "An established socket within the host is not the peer that is expected": """
poll
    during: open i0
reset i0'
poll
    during: open i0
    during: deliver i0
poll
""",
    "A socket whose peer lives is not the peer that is expected": """
poll
    during: open i0
finish i0
deliver i0
open i0
shut down i0
deliver i0'
poll
""",
    "The peer of a row is another socket by now": """
poll
open i0
poll
    during: finish i0
    during: open i0
""",
    "The peer of a row has left the table and was not notified yet": """
poll
open i0
half close i0
orphan times out i0
poll
poll
    during: finish i0
    left out: i0'
poll
""",
    "One that came during a poll is left out of the next one": """
open r0
poll
finish r0
poll
    during: open r0
poll
    before look-up: finish r0
    left out: r0
""",
    "One within the host that came during a poll is gone when it is looked up": """
open i0
poll
open r0
finish i0'
poll
    during: open i0
poll
    left out: i0
poll
    before look-up: finish i0
""",
    "Reset by its peer, and kept open by its program for longer than a minute": """
poll
open i0
half close i0'
abort i0
""",
    "Dying when the program is killed, as two polls did not show it": """
open r2
open r1
poll
poll
    left out: r1
finish r1
poll
restart
""",
    "Kept open by its program after its peer had lost its addresses": """
poll
open i0
abort i0'
wait 1.1 s
let go i0'
poll
    during: open r0
""",
    "An unaddressed socket is the one that was gone when it was looked up": """
open r3
poll
    before look-up: linger r3
""",
    "An unaddressed socket has the 4-tuple that one had before which was unaddressed too": """
poll
open i2
linger i2'
wait 1.1 s
open i2
linger i2
""",
    "Killed while an unaddressed socket is waited with, of which the cookie is not known": """
open r4
poll
    before look-up: linger r4
restart
open r4
abort r4
""",
    "Killed after an unaddressed socket was taken for one whose cookie is not known": """
open unaccepted r5
poll
    before look-up: linger r5
open r5
restart
finish r5
""",
    "Unaddressed before it was looked up, and nobody had accepted it": """
open unaccepted i2'
poll
    before look-up: linger i2
""",
    "Killed before it is known which of those in TIME_WAIT at the first start were notified before": """
open r1
finish r1
poll
restart
""",
    "It was notified before the first start, and another one has its 4-tuple soon afterwards": """
open r0
finish r0
poll
open r0
finish r0
receive
wait 1.1 s
""",
    "Killed before that is known, and then without notifications": """
open r1
finish r1
poll
restart
poll
restart, notifications lost
""",
    "Stopped at last while it is in FIN_WAIT2 as a timewait socket, and notifications are lost": """
poll
    during: open r1
shut down r1
orphan times out r1
wait 1.1 s
restart, notifications lost
""",
    "Stopped at last while a timewait socket is in FIN_WAIT2 that a poll has shown, and notifications are lost": """
poll
    during: open r3
shut down r3
orphan times out r3
poll
wait 1.1 s
restart, notifications lost
""",
    "Stopped at last while it is in TIME_WAIT, and notifications are lost": """
poll
    during: open r0
finish r0
restart, notifications lost
""",
    "An orphan that was reported lives, and is gone when it is looked up": """
open r0
half close r0
poll
poll
    during: linger r0
    during: open r0
""",
    "What is left of a reported connection changes its state while nobody runs": """
poll
    during: open r0
    during: finish r0
restart
    meanwhile: open r0
    meanwhile: half close r0
poll
restart
    meanwhile: orphan times out r0
""",
    "What is left of a reported one stands there after a restart, and the one was never accepted": """
open unaccepted i0'
poll
restart
    meanwhile: finish i0
poll
poll
restart
""",
    "What is left of an orphan within the host stands there after a restart": """
poll
    during: open i2'
    before look-up: half close i2'
restart
    meanwhile: orphan times out i2'
poll
poll
poll
poll
restart
""",
    "What is left of an orphan stands there after a restart, and another one gets its 4-tuple": """
poll
    during: open r2
    before look-up: half close r2
restart
    meanwhile: orphan times out r2
poll
poll
poll
poll
    during: open unaccepted r2
restart
""",
    "One within the host lives, and was in none of two polls all the same": """
open i2
poll
finish i2
poll
    during: open unaccepted i2
poll
    left out: i2'
poll
    during: finish i2
""",
    "One lives, was in none of two polls, and loses its addresses": """
open unaccepted r0
poll
poll
    left out: r0
poll
    during: linger r0
""",
    "The row is of one whose place a reported one has by now: it is not that one": """
poll
    before look-up: open unaccepted i2
poll
    during: half close i2
    before look-up: finish i2
    before look-up: open unaccepted i2
wait 1.1 s
poll
    before look-up: reset i2
""",
    "The row is of one whose place a reported one has by now: it is not its peer either": """
poll
open unaccepted i0
poll
    before look-up: finish i0
    left out: i0'
open unaccepted i0
poll
    before look-up: reset i0
    before look-up: open i0
""",
    "A number was given for want of a cookie, and is not given again after a restart": """
open unaccepted i0'
finish i0'
poll
    before look-up: time wait expires i0'
poll
restart, notifications lost
    before look-up: open unaccepted r0
    after the last poll: open unaccepted r2
poll
    during: finish r0
""",
    "Ended while nobody listened, and its row is in TIME_WAIT yet": """
poll
    during: open r4
    during: shut down r4
restart, notifications lost
    before look-up: open r1
    meanwhile: finish r4
open unaccepted r4
finish r4
finish r1
open unaccepted r1
""",
    "Ended while nobody listened, and left the table: none of those lost later": """
poll
open r5
restart, notifications lost
    meanwhile: finish r5
poll
    before look-up: open r1
open r5
reset r1
poll
    during: passive close r5
""",
    "Killed before the second poll, which shows which ended while nobody listened": """
open unaccepted r2
poll
restart, notifications lost
    after the last poll: open unaccepted r5
    meanwhile: passive close r2
    meanwhile: open unaccepted r1
linger r5
linger r1
poll
restart
""",
    "Killed after the second poll, which showed which ended while nobody listened": """
poll
open r2
restart, notifications lost
    meanwhile: linger r2
poll
restart
    meanwhile: refused r1
open r2
half close r2
""",
    "Kept open by its program, and taken for lost before a restart": """
open r1
poll
abort r1
poll
    during: open r5
    during: open r4
linger r4
finish r5
restart, notifications lost
""",
    "Of two dying sockets with the same addresses and unknown cookies, a notification is of the first": """
poll
open r0
poll
    look-ups: fail
abort r0
poll
poll
wait 70 s
open r0
poll
    look-ups: fail
abort r0
poll
poll
poll
poll
let go r0
deliver r0
receive
wait 5 s
let go r0
deliver r0
receive
""",
    "A row comes back that two polls had left out, and its socket is gone when it is looked up": """
poll
open r0
poll
poll
    left out: r0
    look-ups: fail
poll
    left out again: r0
    look-ups: fail
poll
    before look-up: finish r0
""",
    "The interval becomes longer: the peer of a connection reported by its notification is polled after ten minutes": """
poll
wait 10 s
poll
wait 10 s
poll
wait 10 s
poll
open i0
half close i0
orphan times out i0
deliver i0
receive
wait 600 s
poll
""",
    "The interval becomes shorter: the peer of a connection reported by its notification is polled after ten minutes": """
poll
wait 600 s
poll
open i0
half close i0
orphan times out i0
deliver i0
receive
wait 600 s
poll
    left out: i0'
wait 10 s
poll
wait 10 s
poll
""",
    "Closed an hour and a half before a restart with lost notifications: another with its addresses is in TIME_WAIT": """
poll
open r0
poll
finish r0
deliver r0
receive
wait 5400 s
restart, notifications lost
    meanwhile: open r0
    meanwhile: finish r0
""",
    "Closed half a minute before a restart with lost notifications: what is in TIME_WAIT is what is left of it": """
poll
open r0
poll
finish r0
deliver r0
receive
wait 30 s
restart, notifications lost
""",
    "The state file is rewritten while a peer is expected, and the program killed before it comes": """
poll
open i0
half close i0
abort i0'
deliver i0
receive
open r0
poll
finish r0
open r1
poll
finish r1
open r2
poll
finish r2
open r3
poll
finish r3
poll
restart
let go i0'
""",
    "The state file is rewritten after one was closed, and notifications are lost": """
poll
open r0
poll
finish r0
deliver r0
receive
open r1
poll
passive close r1
open r2
poll
passive close r2
open r3
poll
passive close r3
open r4
poll
passive close r4
poll
restart, notifications lost
""",
    "In TIME_WAIT at the first poll, and notified after it": """
open r0
poll
    during: finish r0
""",
    "The other socket is that of an earlier connection within the host, whose two sockets were both seen": """
open i0
poll
finish i0
open i0
poll
    before look-up: reset i0
""",
    "Its row is as that of the one before it, which was notified": """
poll
open unaccepted r0
poll
passive close r0
deliver r0
receive
open unaccepted r0
poll
""",
    "Its row is as that of the one before it, and a poll in between shows neither": """
poll
open unaccepted r0
poll
passive close r0
deliver r0
receive
poll
open unaccepted r0
poll
""",
    "A number was given for want of a cookie, the state file is rewritten, and it is not given again": """
poll
open r0
poll
    before look-up: finish r0
deliver r0
receive
open r1
poll
passive close r1
deliver r1
receive
open r2
poll
passive close r2
deliver r2
receive
poll
open r1
poll
passive close r1
deliver r1
receive
poll
poll
restart
poll
open r4
poll
    before look-up: finish r4
""",
    "The state file is rewritten while an unaddressed socket is waited with, and the program killed": """
poll
open r0
poll
    before look-up: linger r0
deliver r0
receive
open r1
poll
passive close r1
open r2
poll
passive close r2
open r3
poll
passive close r3
poll
restart
wait 1.1 s
open r0
finish r0
deliver r0
receive
""",
    "Kept open by its program for longer than the correlation window, and its cookie is unknown": """
poll
open r0
poll
    look-ups: fail
abort r0
poll
poll
wait 70 s
poll
poll
poll
poll
let go r0
""",
    "An unaddressed socket is of a dying one rather than of the one that has its 4-tuple now": """
poll
open r0
poll
    before look-up: linger r0
open r0
poll
    look-ups: fail
deliver r0
receive
wait 1.1 s
""",
    "A dying one is shown again after a restart, and is still one": """
open r0
half close r0
poll
restart
poll
poll
restart
poll
""",
    "Dying since before a restart, kept open for longer than the correlation window": """
poll
open r0
poll
    look-ups: fail
abort r0
poll
poll
restart
poll
wait 70 s
poll
poll
poll
poll
open r0
poll
    look-ups: fail
finish r0
time wait expires r0
poll
""",
    "A row with another inode is of another connection": """
poll
open r0
shut down r0
poll
    look-ups: fail
finish r0
open r0
poll
    look-ups: fail
poll
""",
    "Gone when it was looked up, and what is left of another on its 4-tuple has a cookie of its own": """
poll
open r0
poll
    before look-up: open r0
    before look-up: finish r0
poll
""",
    "Both sockets of a connection within the host were shown: none is expected after they are destroyed": """
open i0
poll
finish i0
open i0
finish i0
""",
    "The second poll after a restart leaves it out, and the first has shown it": """
poll
open r0
restart
poll
poll
    left out: r0
""",
    "A dying socket is the peer of one that is destroyed, and of no other": """
poll
open i0
poll
    during: finish i0
    before look-up: open i0
poll
    during: finish i0
    before look-up: open i0
abort i0
""",
    "A notification was lost and counted, and the program killed before the next poll": """
poll
open i0
finish i0
wait 1.1 s
wait 1.1 s
wait 1.1 s
wait 1.1 s
restart
""",
}
