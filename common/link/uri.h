/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uri.h - where an appliance is: shm:PATH, shm:@NAME, tcp:HOST:PORT, tcp:[V6]:PORT, tcp:PORT, verbs:HOST:PORT.
 * One parser for clients and the appliance. No state.
 */
#ifndef XM_URI_H
#define XM_URI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

enum xm_uri_kind { XM_URI_SHM, XM_URI_TCP, XM_URI_VERBS };

struct xm_uri {
	enum xm_uri_kind kind;
	char host[128]; /* tcp, verbs; empty: loopback (tcp only) */
	char port[8];	/* tcp, verbs; decimal */
	char path[108]; /* shm; a first '@' means an abstract socket */
};

/* 0; -EINVAL with one line in why (>= 160 bytes, may be NULL) */
int xm_uri_parse(const char *text, struct xm_uri *out, char *why);
/* The socket address. May call getaddrinfo(), which allocates and blocks, for a host that is a name.
 * 0; -EINVAL, -EHOSTUNREACH (unknown host) with one line in why. */
int xm_uri_resolve(const struct xm_uri *u, struct sockaddr_storage *out, socklen_t *len, char *why);
/* 1: a loopback or unix address */
int xm_uri_is_local(const struct sockaddr_storage *ss);

#define XM_WHY_MAX 160

#endif
