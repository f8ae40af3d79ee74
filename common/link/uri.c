/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uri.c - parses and resolves addresses of appliances.
 * Runs at start-up only (getaddrinfo allocates). No locks, no state.
 */
#include "link/uri.h"

#include "log.h"
#include "units.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>

static int refuse(char *why, const char *text, const char *what)
{
	if (why)
		xm_snprintf(why, XM_WHY_MAX, "'%.60s' is not an address (%s)", text, what);
	return -EINVAL;
}

/* ---- options ------------------------------------------------------------------------------------------ */

static int parse_device(const char *value, struct xm_uri_options *o)
{
	size_t n = strlen(value);

	if (!n || n >= sizeof(o->device) || strchr(value, '/') || value[0] == '.')
		return -EINVAL;
	memcpy(o->device, value, n + 1);
	return 0;
}

/* Rounded up to what the device can be told: 4.096 us times a power of two (InfiniBand 1.4, 9.7.6.1.3). */
static int parse_ack_timeout(const char *value, struct xm_uri_options *o)
{
	uint64_t ns;

	if (xm_parse_time(value, &ns) < 0 || ns < 8192 || ns > 60ull * 1000000000)
		return -EINVAL;
	for (o->ack_timeout = 1; (4096ull << o->ack_timeout) < ns; o->ack_timeout++)
		;
	return 0;
}

static int parse_mtu(const char *value, struct xm_uri_options *o)
{
	uint64_t n;

	if (xm_parse_u64(value, 256, 4096, &n) < 0 || (n & (n - 1)))
		return -EINVAL;
	o->mtu = (int)n;
	return 0;
}

static int parse_depth(const char *value, struct xm_uri_options *o)
{
	uint64_t n;

	if (xm_parse_u64(value, 16, 4096, &n) < 0)
		return -EINVAL;
	for (o->depth = 16; (uint64_t)o->depth < n; o->depth *= 2)
		;
	return 0;
}

static int parse_huge(const char *value, struct xm_uri_options *o)
{
	if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
		return -EINVAL;
	o->huge = value[0] == 'y';
	return 0;
}

static const struct option {
	const char *key, *want;
	int (*parse)(const char *value, struct xm_uri_options *o); /* or a number: */
	size_t at;
	uint64_t min, max;
} options[] = {
	{ "device", "the name of an RDMA device, as in rdma link", parse_device, 0, 0, 0 },
	{ "port", "1 to 255", NULL, offsetof(struct xm_uri_options, port), 1, 255 },
	{ "gid", "an index of the port's table, 0 to 65535", NULL, offsetof(struct xm_uri_options, gid), 0, 65535 },
	{ "mtu", "256, 512, 1024, 2048 or 4096", parse_mtu, 0, 0, 0 },
	{ "ack-timeout", "a time of 8.192us to 60s, such as 67ms", parse_ack_timeout, 0, 0, 0 },
	{ "retries", "0 to 7", NULL, offsetof(struct xm_uri_options, retries), 0, 7 },
	{ "depth", "16 to 4096", parse_depth, 0, 0, 0 },
	{ "reads", "1 to 255", NULL, offsetof(struct xm_uri_options, reads), 1, 255 },
	{ "numa", "a node, 0 to 1023", NULL, offsetof(struct xm_uri_options, numa), 0, 1023 },
	{ "huge", "yes or no", parse_huge, 0, 0, 0 },
};

static const struct option *find_option(const char *text, size_t n)
{
	for (size_t i = 0; i < XM_ARRAY_SIZE(options); i++)
		if (strlen(options[i].key) == n && memcmp(options[i].key, text, n) == 0)
			return &options[i];
	return NULL;
}

static int refuse_option(char *why, const char *text, int n, const char *what)
{
	if (why)
		xm_snprintf(why, XM_WHY_MAX, "verbs: '%.*s' in the address: %s", xm_min(n, 50), text, what);
	return -EINVAL;
}

/* KEY=VALUE, [text, text + n). */
static int parse_option(const char *text, size_t n, uint32_t *seen, struct xm_uri_options *o, char *why)
{
	const char *equal = memchr(text, '=', n);
	const struct option *f = equal ? find_option(text, (size_t)(equal - text)) : NULL;
	char value[80], want[100];
	uint64_t number;
	size_t len;
	int ret;

	if (!f)
		return refuse_option(why, text, (int)n,
				     "want device=, port=, gid=, mtu=, ack-timeout=, retries=, depth=, reads=, numa= or huge=");
	if (*seen & (1u << (f - options)))
		return refuse_option(why, text, (int)n, "given twice");
	*seen |= 1u << (f - options);
	len = xm_min(n - (size_t)(equal + 1 - text), sizeof(value) - 1);
	memcpy(value, equal + 1, len);
	value[len] = 0;
	if (f->parse) {
		ret = f->parse(value, o);
	} else {
		ret = xm_parse_u64(value, f->min, f->max, &number);
		if (ret == 0)
			*(int *)((char *)o + f->at) = (int)number;
	}
	if (ret == 0)
		return 0;
	xm_snprintf(want, sizeof(want), "want %s", f->want);
	return refuse_option(why, text, (int)n, want);
}

static int parse_options(const char *text, struct xm_uri_options *o, char *why)
{
	uint32_t seen = 0;
	int ret = 0;

	while (ret == 0 && *text) {
		size_t n = strcspn(++text, ",");

		ret = parse_option(text, n, &seen, o, why);
		text += n;
	}
	if (ret == 0 && !o->device[0] && (o->port >= 0 || o->gid >= 0))
		ret = refuse_option(why, o->gid >= 0 ? "gid" : "port", 4, "of which device? (device=NAME too)");
	return ret;
}

/* A path may hold commas, but hardly one with an option's name behind it. */
static bool names_option(const char *text)
{
	for (text = strchr(text, ','); text; text = strchr(text, ',')) {
		size_t n = strcspn(++text, "=,");

		if (text[n] == '=' && find_option(text, n))
			return true;
	}
	return false;
}

/* ---- addresses ---------------------------------------------------------------------------------------- */

static int parse_shm(const char *text, const char *path, struct xm_uri *u, char *why)
{
	size_t len = strlen(path);

	if (!len || (path[0] == '@' && len == 1))
		return refuse(why, text, "shm: wants a path, or @name for an abstract socket");
	if (len >= sizeof(u->path))
		return refuse(why, text, "the path is longer than 107 bytes");
	u->kind = XM_URI_SHM;
	memcpy(u->path, path, len + 1);
	return 0;
}

static int parse_port(const char *text, const char *port, char *why)
{
	unsigned value = 0;

	if (!*port || strlen(port) > 5)
		return refuse(why, text, "want tcp:PORT, tcp:HOST:PORT or verbs:HOST:PORT");
	for (const char *p = port; *p; p++) {
		if (*p < '0' || *p > '9')
			return refuse(why, text, "the port is not a number");
		value = value * 10 + (unsigned)(*p - '0');
	}
	return value > 65535 ? refuse(why, text, "the port is above 65535") : 0;
}

/* tcp and verbs: the control connection of verbs is one of TCP to the same address */
static int parse_inet(const char *text, enum xm_uri_kind kind, struct xm_uri *u, char *why)
{
	const char *rest = strchr(text, ':') + 1;
	const char *colon = strrchr(rest, ':');
	const char *port = colon ? colon + 1 : rest;
	size_t host_len = colon ? (size_t)(colon - rest) : 0;
	int ret;

	if (host_len >= 2 && rest[0] == '[' && rest[host_len - 1] == ']') {
		rest++;
		host_len -= 2;
	} else if (host_len && memchr(rest, ':', host_len)) {
		return refuse(why, text,
			      kind == XM_URI_TCP ? "write an IPv6 address as tcp:[ADDR]:PORT" :
						   "write an IPv6 address as verbs:[ADDR]:PORT");
	}
	if (host_len >= sizeof(u->host))
		return refuse(why, text, "the host name is too long");
	if (!host_len && kind == XM_URI_VERBS)
		return refuse(why, text, "want verbs:HOST:PORT: no RDMA device serves the loopback address");
	ret = parse_port(text, port, why);
	if (ret < 0)
		return ret;
	u->kind = kind;
	memcpy(u->host, rest, host_len);
	u->host[host_len] = 0;
	memcpy(u->port, port, strlen(port) + 1);
	return 0;
}

/* verbs:HOST:PORT, and what stands after a comma. */
static int parse_verbs(const char *text, struct xm_uri *u, char *why)
{
	char address[160];
	size_t n = strcspn(text, ",");
	int ret;

	if (n >= sizeof(address))
		return refuse(why, text, "the host name is too long");
	memcpy(address, text, n);
	address[n] = 0;
	ret = parse_inet(address, XM_URI_VERBS, u, why);
	u->has_options = text[n];
	return ret < 0 ? ret : parse_options(text + n, &u->verbs, why);
}

int xm_uri_parse(const char *text, struct xm_uri *out, char *why)
{
	struct xm_uri u = { .verbs = { .port = -1, .gid = -1, .mtu = -1, .ack_timeout = -1, .retries = -1, .depth = -1,
				       .reads = -1, .numa = -1, .huge = -1 } };
	int ret;

	if (!text)
		return refuse(why, "", "none was given");
	if (strlen(text) >= XM_URI_MAX)
		return refuse(why, text, "it is longer than 359 bytes");
	if (strncmp(text, "verbs:", 6) != 0 && names_option(text))
		return refuse(why, text, "options after a comma are for verbs:HOST:PORT only");
	if (strncmp(text, "shm:", 4) == 0)
		ret = parse_shm(text, text + 4, &u, why);
	else if (strncmp(text, "tcp:", 4) == 0)
		ret = parse_inet(text, XM_URI_TCP, &u, why);
	else if (strncmp(text, "verbs:", 6) == 0)
		ret = parse_verbs(text, &u, why);
	else
		ret = refuse(why, text, "want shm:PATH, shm:@NAME, tcp:PORT, tcp:HOST:PORT or verbs:HOST:PORT");
	if (ret == 0)
		*out = u;
	return ret;
}

int xm_uri_parse_listen(const char *text, struct xm_uri *out, char *why)
{
	struct xm_uri u;
	int ret = xm_uri_parse(text, &u, why);

	if (ret == 0 && u.has_options)
		return refuse(why, text, "options are for the client's --appliance: listen at verbs:HOST:PORT");
	if (ret == 0)
		*out = u;
	return ret;
}

static void resolve_unix(const struct xm_uri *u, struct sockaddr_storage *out, socklen_t *len)
{
	struct sockaddr_un *sun = (struct sockaddr_un *)out;
	size_t n = strlen(u->path);

	sun->sun_family = AF_UNIX;
	memcpy(sun->sun_path, u->path, n + 1);
	*len = (socklen_t)sizeof(*sun);
	if (u->path[0] == '@') {
		sun->sun_path[0] = 0;
		*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	}
}

/* Numeric hosts never reach the resolver, so that they work in any environment. */
static int resolve_numeric(const struct xm_uri *u, struct sockaddr_storage *out, socklen_t *len)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	const char *host = u->host[0] && strcmp(u->host, "localhost") != 0 ? u->host : "127.0.0.1";
	unsigned port = 0;

	for (const char *p = u->port; *p; p++)
		port = port * 10 + (unsigned)(*p - '0');
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		*len = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		*len = sizeof(*v6);
		return 0;
	}
	return -ENOENT;
}

int xm_uri_resolve(const struct xm_uri *u, struct sockaddr_storage *out, socklen_t *len, char *why)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
	int ret;

	memset(out, 0, sizeof(*out));
	if (u->kind == XM_URI_SHM) {
		resolve_unix(u, out, len);
		return 0;
	}
	if (resolve_numeric(u, out, len) == 0)
		return 0;
	ret = getaddrinfo(u->host, u->port, &hints, &found);
	if (ret != 0) {
		if (why)
			xm_snprintf(
				why, XM_WHY_MAX,
				"%.50s:%s: unknown host (%.34s) (check the spelling, or give the IP address)",
				u->host, u->port, gai_strerror(ret));
		return -EHOSTUNREACH;
	}
	memcpy(out, found->ai_addr, found->ai_addrlen);
	*len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

int xm_uri_is_local(const struct sockaddr_storage *ss)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)ss;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)ss;

	if (ss->ss_family == AF_INET)
		return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
	if (ss->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
	return ss->ss_family == AF_UNIX;
}
