/* What runs in a container of the tests (engines.py), as its only process, and beside it: makes connections and accepts them.

   Each argument is a command:

   read=PIPE                    carry out each line of a named pipe
   listen PORT                  accept connections, and keep each until its other end is closed
   serve PORT                   accept connections, and close each at once
   open ADDRESS PORT FROM       make one, from this local port, and keep it
   short ADDRESS PORT COUNT     make as many, one after the other, each closed as soon as its other end is
   close                        close those that "open" has made

   A command that fails ends it, with 1, and so the container. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 1024
#define LINE 256

enum role { COMMANDS, LISTENER, SERVER, ACCEPTED, OPENED };

static struct pollfd watched[MOST];
static enum role roles[MOST];
static nfds_t count;

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void watch(int descriptor, enum role role)
{
	if (count == MOST) {
		errno = EMFILE;
		fail("watch");
	}
	watched[count] = (struct pollfd){ .fd = descriptor, .events = POLLIN };
	roles[count++] = role;
}

static void unwatch(nfds_t number)
{
	close(watched[number].fd);
	watched[number] = watched[--count];
	roles[number] = roles[count];
}

static struct sockaddr_in endpoint(const char *address, int port)
{
	struct sockaddr_in made = { .sin_family = AF_INET, .sin_port = htons(port) };
	if (inet_pton(AF_INET, address, &made.sin_addr) != 1) {
		errno = EINVAL;
		fail(address);
	}
	return made;
}

/* From any local port, if it is 0. */
static int bound(int port)
{
	int yes = 1, made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in here = endpoint("0.0.0.0", port);
	setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (made < 0 || (port && bind(made, (struct sockaddr *)&here, sizeof here) != 0))
		fail("bind");
	return made;
}

static int connected(const char *address, int port, int from)
{
	int made = bound(from);
	struct sockaddr_in server = endpoint(address, port);
	if (connect(made, (struct sockaddr *)&server, sizeof server) != 0)
		fail("connect");
	return made;
}

static void listens(int port, enum role role)
{
	int made = bound(port);
	if (listen(made, 4096) != 0)
		fail("listen");
	watch(made, role);
}

static void short_one(const char *address, int port)
{
	char some;
	int made = connected(address, port, 0);
	if (read(made, &some, 1) != 0)
		fail("read");
	close(made);
}

static void close_opened(void)
{
	for (nfds_t number = count; number-- > 0;)
		if (roles[number] == OPENED)
			unwatch(number);
}

static void read_lines(const char *path)
{
	/* Opened for both, it has no end. */
	int pipe = open(path, O_RDWR | O_CLOEXEC);
	if (pipe < 0)
		fail(path);
	watch(pipe, COMMANDS);
}

static void carry_out(const char *line)
{
	char address[64];
	int port, number;
	if (strncmp(line, "read=", 5) == 0)
		read_lines(line + 5);
	else if (sscanf(line, "listen %d", &port) == 1)
		listens(port, LISTENER);
	else if (sscanf(line, "serve %d", &port) == 1)
		listens(port, SERVER);
	else if (sscanf(line, "open %63s %d %d", address, &port, &number) == 3)
		watch(connected(address, port, number), OPENED);
	else if (sscanf(line, "short %63s %d %d", address, &port, &number) == 3)
		while (number-- > 0)
			short_one(address, port);
	else if (strcmp(line, "close") == 0)
		close_opened();
	else {
		errno = EINVAL;
		fail(line);
	}
}

static void read_commands(int pipe)
{
	static char buffer[LINE];
	static size_t filled;
	ssize_t got = read(pipe, buffer + filled, sizeof buffer - filled);
	if (got <= 0)
		fail("read");
	filled += got;
	for (char *end; (end = memchr(buffer, '\n', filled));) {
		*end = 0;
		carry_out(buffer);
		filled -= end + 1 - buffer;
		memmove(buffer, end + 1, filled);
	}
}

/* The other end has sent something, or has closed. */
static void read_from(nfds_t number)
{
	char some[64];
	if (read(watched[number].fd, some, sizeof some) <= 0)
		unwatch(number);
}

static void ended(int number)
{
	(void)number;
	_exit(0);
}

int main(int arguments, char **argument)
{
	/* The first process of a namespace has no defaults. */
	signal(SIGTERM, ended);
	signal(SIGINT, ended);
	signal(SIGPWR, ended);
	for (int number = 1; number < arguments; number++)
		carry_out(argument[number]);
	for (;;) {
		if (poll(watched, count, -1) < 0)
			fail("poll");
		for (nfds_t number = count; number-- > 0;) {
			if (!watched[number].revents)
				continue;
			if (roles[number] == COMMANDS)
				read_commands(watched[number].fd);
			else if (roles[number] == LISTENER)
				watch(accept4(watched[number].fd, NULL, NULL, SOCK_CLOEXEC), ACCEPTED);
			else if (roles[number] == SERVER)
				close(accept4(watched[number].fd, NULL, NULL, SOCK_CLOEXEC));
			else
				read_from(number);
		}
	}
}
