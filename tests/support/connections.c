/* Makes connections that are over at once, for the steps inside a virtual machine (machine_load.py).

   connections once ADDRESS PORT              connect, and exit
   connections fork COUNT ADDRESS PORT        a process for each connection, as fast as they come
   connections mixed COUNT ADDRESS PORT FIRST_PORT PORTS UNIT UNITS USERS FIRST_UID
                                              one after the other, each of a process with another user, from the next of a few
                                              local ports; every tenth from the next of fewer, so that it is used again at once.
                                              It sends a number of bytes that says its unit and its user
   connections serve ADDRESS PORT             takes what mixed sends, and closes first: so the client's port is free at once
   connections spin                           keeps a core busy

   A run that could not make one of its connections ends with 1. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Processes of fork. */
#define AT_A_TIME 32

static struct sockaddr_in endpoint(const char *address, int port)
{
	struct sockaddr_in made = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, address, &made.sin_addr);
	return made;
}

static _Noreturn void fail(const char *what)
{
	perror(what);
	_exit(1);
}

static int connected(const struct sockaddr_in *server)
{
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client < 0 || connect(client, (const struct sockaddr *)server, sizeof *server) != 0)
		fail("connect");
	return client;
}

/* A connection from the first local port that nobody uses towards this server, from *port on. */
static int connected_from(const struct sockaddr_in *server, int first_port, int ports, unsigned *port)
{
	for (;;) {
		int yes = 1, client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		struct sockaddr_in here = endpoint("127.0.0.1", first_port + (*port)++ % ports);
		setsockopt(client, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
		if (bind(client, (struct sockaddr *)&here, sizeof here) == 0
		    && connect(client, (const struct sockaddr *)server, sizeof *server) == 0)
			return client;
		if (errno != EADDRINUSE && errno != EADDRNOTAVAIL)
			fail("connect");
		close(client);
	}
}

/* The bytes begin with their number. */
static void exchange(int client, unsigned bytes)
{
	static char payload[65536];
	unsigned number = htonl(bytes);
	memcpy(payload, &number, sizeof number);
	if (send(client, payload, bytes, MSG_NOSIGNAL) != (ssize_t)bytes || recv(client, payload, 1, 0) != 0)
		fail("exchange");
}

static void wait_for(pid_t child)
{
	int status;
	if (waitpid(child, &status, 0) <= 0 || status != 0)
		fail("child");
}

static void mixed(char **arguments)
{
	int count = atoi(arguments[0]), first_port = atoi(arguments[3]), ports = atoi(arguments[4]);
	unsigned unit = atoi(arguments[5]), units = atoi(arguments[6]), users = atoi(arguments[7]);
	unsigned first_uid = atoi(arguments[8]);
	struct sockaddr_in server = endpoint(arguments[1], atoi(arguments[2]));
	for (int number = 0; number < count; number++) {
		unsigned user = number % users, port = unit * count + number;
		pid_t child = fork();
		if (child < 0) {
			/* No pid is free. */
			usleep(1000);
			number--;
			continue;
		}
		if (child == 0) {
			if (setgid(first_uid + user) != 0 || setuid(first_uid + user) != 0)
				fail("setuid");
			int few = number % 10 == 0 ? ports / 30 : ports;
			exchange(connected_from(&server, first_port, few, &port), 4 + 2 * (user * units + unit));
			_exit(0);
		}
		wait_for(child);
	}
}

static int listening(const char *address, int port)
{
	int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in here = endpoint(address, port);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 4096) != 0)
		fail("listen");
	return listener;
}

static void serve(const char *address, int port)
{
	static char payload[65536];
	int listener = listening(address, port);
	for (;;) {
		int client = accept(listener, NULL, NULL);
		unsigned number, rest;
		if (client < 0)
			fail("accept");
		if (recv(client, &number, sizeof number, MSG_WAITALL) == sizeof number) {
			rest = ntohl(number) - sizeof number;
			if (rest > 0 && rest <= sizeof payload)
				recv(client, payload, rest, MSG_WAITALL);
		}
		close(client);
	}
}

int main(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "";
	if (strcmp(mode, "once") == 0 && count == 4) {
		struct sockaddr_in server = endpoint(arguments[2], atoi(arguments[3]));
		connected(&server);
	} else if (strcmp(mode, "fork") == 0 && count == 5) {
		struct sockaddr_in server = endpoint(arguments[3], atoi(arguments[4]));
		int waiting = 0;
		for (int number = atoi(arguments[2]); number > 0; number--) {
			pid_t child = fork();
			if (child == 0) {
				connected(&server);
				_exit(0);
			}
			waiting += child > 0;
			if (child < 0 || waiting == AT_A_TIME) {
				wait_for(-1);
				number += child < 0;
				waiting--;
			}
		}
		while (waiting-- > 0)
			wait_for(-1);
	} else if (strcmp(mode, "mixed") == 0 && count == 11) {
		mixed(arguments + 2);
	} else if (strcmp(mode, "serve") == 0 && count == 4) {
		serve(arguments[2], atoi(arguments[3]));
	} else if (strcmp(mode, "spin") == 0) {
		for (;;)
			;
	} else {
		fprintf(stderr, "see the head of connections.c\n");
		return 2;
	}
	return 0;
}
