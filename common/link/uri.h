/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uri.h - where an appliance is: shm:PATH, shm:@NAME, tcp:HOST:PORT, tcp:[V6]:PORT, tcp:PORT, and
 * verbs:HOST:PORT[,KEY=VALUE]... with options for this appliance's links.
 * One parser for clients and the appliance. No state.
 */
#ifndef XM_URI_H
#define XM_URI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define XM_URI_MAX 360 /* bytes of an address with every option, and the end */

enum xm_uri_kind { XM_URI_SHM, XM_URI_TCP, XM_URI_VERBS };

/* Of links over verbs. -1 (device: empty): not given. */
struct xm_uri_options {
	char device[64];
	int port;
	int gid;	 /* index in the port's table */
	int mtu;	 /* 256 ... 4096, a power of two */
	int ack_timeout; /* exponent: 4.096 us * 2^n */
	int retries;
	int depth; /* work requests in the send queue, a power of two */
	int reads; /* most reads and atomics under way */
	int numa;  /* node of the buffers */
	int huge;  /* 1: buffers of huge pages where there are some; 0: never */
};

struct xm_uri {
	enum xm_uri_kind kind;
	char host[128]; /* tcp, verbs; empty: loopback (tcp only) */
	char port[8];	/* tcp, verbs; decimal */
	char path[108]; /* shm; a first '@' means an abstract socket */
	bool has_options;
	struct xm_uri_options verbs;
};

/* 0; -EINVAL with one line in why (>= 160 bytes, may be NULL) */
int xm_uri_parse(const char *text, struct xm_uri *out, char *why);
/* For an address to listen at: the same, and options are refused. */
int xm_uri_parse_listen(const char *text, struct xm_uri *out, char *why);
/* The socket address. May call getaddrinfo(), which allocates and blocks, for a host that is a name.
 * 0; -EINVAL, -EHOSTUNREACH (unknown host) with one line in why. */
int xm_uri_resolve(const struct xm_uri *u, struct sockaddr_storage *out, socklen_t *len, char *why);
/* 1: a loopback or unix address */
int xm_uri_is_local(const struct sockaddr_storage *ss);

#define XM_WHY_MAX 160

#endif
