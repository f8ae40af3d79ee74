/* SPDX-License-Identifier: Apache-2.0 */
/*
 * redis_load.c - what redis-benchmark cannot do: keys by Zipf's law, and values that are checked. Talks to a redis-server by
 * its unix socket over CONNECTIONS connections, each with one request under way; prints one JSON object with a part for each
 *
 *   load    SET of every key once, in order
 *   get     GET of uniformly random keys
 *   mixed   the same, every second one a SET
 *   zipf    GET, keys by Zipf's law with exponent 0.99, scattered
 *
 * Values are 4 KiB that name their key and do not compress. One thread, no locks.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hist.h"
#include "util.h"
#include "zipf.h"

#define CONNECTIONS 16
#define VALUE_BYTES 4096
#define WORDS (VALUE_BYTES / sizeof(uint64_t))
#define ROOM (VALUE_BYTES + 128)
#define GET_HEAD "$4096\r\n"
#define SET_REPLY "+OK\r\n"

enum load { LOAD, GET, MIXED, ZIPF, LOADS };

static const char *const load_names[] = { "load", "get", "mixed", "zipf" };

struct connection {
	int fd;
	bool set;
	uint64_t key, sent_ns;
	size_t have;
	char reply[ROOM];
};

static struct connection conn[CONNECTIONS];
static struct pollfd waits[CONNECTIONS];
static struct xm_hist latency;
static struct zipf zipf;
static uint64_t keys, next_key, errors;
static uint64_t seed = 88172645463325252ull;

static void die(const char *what)
{
	fprintf(stderr, "redis_load: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static uint64_t word_of(uint64_t key, unsigned i)
{
	return (key + 1) * 0xd1342543de82ef95ull + i * 0x9e3779b97f4a7c15ull;
}

static void send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t done = send(fd, p, n, MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			die("send");
		p += done;
		n -= (size_t)done;
	}
}

static uint64_t choose_key(enum load load)
{
	if (load == LOAD)
		return next_key++;
	if (load == ZIPF)
		return zipf_draw(&zipf, next_random, &seed) * 2654435761ull % keys;
	return (next_random(&seed) >> 8) % keys;
}

static void ask(struct connection *c, enum load load)
{
	char name[32], text[ROOM];
	uint64_t value[WORDS];
	int n, name_len;

	c->key = choose_key(load);
	c->set = load == LOAD || (load == MIXED && (next_random(&seed) >> 16 & 1));
	c->have = 0;
	name_len = snprintf(name, sizeof(name), "key:%llu", (unsigned long long)c->key);
	if (c->set) {
		for (unsigned i = 0; i < WORDS; i++)
			value[i] = word_of(c->key, i);
		n = snprintf(text, sizeof(text), "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n" GET_HEAD, name_len, name);
		if (n + VALUE_BYTES + 2 > ROOM) {
			errno = E2BIG;
			die(name);
		}
		memcpy(text + n, value, VALUE_BYTES);
		memcpy(text + n + VALUE_BYTES, "\r\n", 2);
		n += VALUE_BYTES + 2;
	} else {
		n = snprintf(text, sizeof(text), "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_len, name);
	}
	c->sent_ns = xm_now_ns();
	send_all(c->fd, text, (size_t)n);
}

static bool value_right(const struct connection *c)
{
	const char *p = c->reply + strlen(GET_HEAD);

	if (memcmp(c->reply, GET_HEAD, strlen(GET_HEAD)) != 0)
		return false;
	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t want = word_of(c->key, i);

		if (memcmp(p + i * sizeof(want), &want, sizeof(want)) != 0)
			return false;
	}
	return true;
}

/* True when the reply is whole. */
static bool take(struct connection *c)
{
	size_t want = c->set ? strlen(SET_REPLY) : strlen(GET_HEAD) + VALUE_BYTES + 2;
	ssize_t n = recv(c->fd, c->reply + c->have, want - c->have, 0);

	if (n < 0 && errno == EINTR)
		return false;
	if (n <= 0)
		die("redis closed the connection");
	c->have += (size_t)n;
	if (c->reply[0] == '-' || (!c->set && c->have >= 3 && memcmp(c->reply, "$-1", 3) == 0)) {
		fprintf(stderr, "redis_load: key %llu: redis answered %.*s\n", (unsigned long long)c->key,
			(int)c->have, c->reply);
		exit(1);
	}
	if (c->have < want)
		return false;
	xm_hist_record(&latency, xm_now_ns() - c->sent_ns);
	errors += c->set ? memcmp(c->reply, SET_REPLY, want) != 0 : !value_right(c);
	return true;
}

static bool more(enum load load, uint64_t until)
{
	return load == LOAD ? next_key < keys : xm_now_ns() < until;
}

static void run(enum load load, double seconds)
{
	uint64_t start = xm_now_ns(), until = start + (uint64_t)(seconds * 1e9), done = 0;
	unsigned busy = 0;
	double s;

	memset(&latency, 0, sizeof(latency));
	for (unsigned i = 0; i < CONNECTIONS && more(load, until); i++, busy++) {
		waits[i].events = POLLIN;
		ask(&conn[i], load);
	}
	while (busy) {
		if (poll(waits, CONNECTIONS, -1) < 0 && errno != EINTR)
			die("poll");
		for (unsigned i = 0; i < CONNECTIONS; i++) {
			if (!waits[i].revents || !take(&conn[i]))
				continue;
			done++;
			if (more(load, until)) {
				ask(&conn[i], load);
			} else {
				waits[i].events = 0;
				busy--;
			}
		}
	}
	s = (double)(xm_now_ns() - start) / 1e9;
	printf("%s\"%s\":{\"per_s\":%.1f,\"seconds\":%.4f,\"p50_us\":%.2f,\"p99_us\":%.2f,\"max_us\":%.1f}",
	       load == LOAD ? "{" : ",", load_names[load], (double)done / s, s,
	       (double)xm_hist_quantile(&latency, 0.5) / 1000,
	       (double)xm_hist_quantile(&latency, 0.99) / 1000, (double)latency.max / 1000);
}

static void open_all(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(to.sun_path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	strcpy(to.sun_path, path);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		conn[i].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (conn[i].fd < 0 || connect(conn[i].fd, (struct sockaddr *)&to, sizeof(to)) != 0)
			die(path);
		waits[i].fd = conn[i].fd;
	}
}

int main(int argc, char **argv)
{
	if (argc != 4 || (keys = strtoull(argv[2], NULL, 10)) < 2) {
		fprintf(stderr, "usage: redis_load SOCKET KEYS SECONDS\n");
		return 2;
	}
	open_all(argv[1]);
	zipf_init(&zipf, keys, 0.99);
	for (enum load load = LOAD; load < LOADS; load++)
		run(load, atof(argv[3]));
	printf(",\"errors\":%llu}\n", (unsigned long long)errors);
	for (unsigned i = 0; i < CONNECTIONS; i++)
		close(conn[i].fd);
	return errors ? 1 : 0;
}
