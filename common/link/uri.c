/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uri.c - parses and resolves addresses of appliances.
 * Runs at start-up only (getaddrinfo allocates). No locks, no state.
 */
#include "link/uri.h"

#include "log.h"

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

int xm_uri_parse(const char *text, struct xm_uri *out, char *why)
{
	struct xm_uri u = { 0 };
	int ret;

	if (!text)
		return refuse(why, "", "none was given");
	if (strncmp(text, "shm:", 4) == 0)
		ret = parse_shm(text, text + 4, &u, why);
	else if (strncmp(text, "tcp:", 4) == 0)
		ret = parse_inet(text, XM_URI_TCP, &u, why);
	else if (strncmp(text, "verbs:", 6) == 0)
		ret = parse_inet(text, XM_URI_VERBS, &u, why);
	else
		ret = refuse(why, text, "want shm:PATH, shm:@NAME, tcp:PORT, tcp:HOST:PORT or verbs:HOST:PORT");
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
