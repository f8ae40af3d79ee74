/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw_client.h - a client that speaks the wire protocol over a socket by itself, without the library's good manners:
 * for tests of what the appliance lets such a one do. One message at a time, in `msg`.
 */
#ifndef XM_RAW_CLIENT_H
#define XM_RAW_CLIENT_H

#include "tests/unit/appliance_rig.h"

#include "link/uri.h"

#include <poll.h>
#include <sys/socket.h>

static struct xm_wire_msg msg;
static uint8_t bytes[XM_WIRE_MAX];

static inline int raw_connect(const char *text)
{
	struct sockaddr_storage ss;
	struct xm_uri u;
	socklen_t len;
	int fd;

	assert_int_equal(xm_uri_parse(text, &u, NULL), 0);
	assert_int_equal(xm_uri_resolve(&u, &ss, &len, NULL), 0);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&ss, len), 0);
	return fd;
}

static inline void raw_send(int fd, const void *p, size_t n)
{
	ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);

	(void)sent; /* the other side may have had enough: what it answers is what counts */
}

/* Waits for up to n bytes; fewer at the end of the stream. */
static inline size_t raw_recv(int fd, void *p, size_t n)
{
	size_t have = 0;

	while (have < n) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		ssize_t got;

		if (poll(&pfd, 1, 10000) != 1)
			fail_msg("the appliance neither answers nor closes");
		got = recv(fd, (uint8_t *)p + have, n - have, 0);
		if (got <= 0)
			break;
		have += (size_t)got;
	}
	return have;
}

static inline void raw_send_msg(int fd)
{
	int len = xm_wire_encode(&msg, bytes, sizeof(bytes));

	assert_true(len > 0);
	raw_send(fd, bytes, (size_t)len);
}

/* The next message; 0: the stream ended. */
static inline int raw_recv_msg(int fd)
{
	struct xm_wire_header h;

	if (raw_recv(fd, bytes, XM_WIRE_HEADER) < XM_WIRE_HEADER)
		return 0;
	assert_int_equal(xm_wire_decode_header(bytes, XM_WIRE_HEADER, &h), 0);
	assert_int_equal(raw_recv(fd, bytes + XM_WIRE_HEADER, h.length - XM_WIRE_HEADER),
			 h.length - XM_WIRE_HEADER);
	assert_int_equal(xm_wire_decode(bytes, h.length, &msg), 0);
	return 1;
}

static inline int closed(int fd)
{
	uint8_t byte;

	return raw_recv(fd, &byte, 1) == 0;
}

static inline void hello(uint16_t role)
{
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_HELLO;
	msg.u.hello.magic = XM_WIRE_MAGIC;
	msg.u.hello.major = XM_WIRE_MAJOR;
	msg.u.hello.role = role;
}

static inline struct xm_wire_hello_reply raw_session(int fd)
{
	hello(XM_WIRE_ROLE_CONTROL);
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.status, 0);
	return msg.u.hello_reply;
}

/* A data connection of the session; its own link. */
static inline int raw_data(const char *uri, const struct xm_wire_hello_reply *me)
{
	int fd = raw_connect(uri);

	hello(XM_WIRE_ROLE_DATA);
	msg.u.hello.session = me->session;
	memcpy(msg.u.hello.token, me->token, sizeof(msg.u.hello.token));
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.status, 0);
	return fd;
}

/* A message of this type, with what is in msg.u; the status of its reply. */
static inline int raw_ask(int fd, uint16_t type)
{
	memset(&msg.h, 0, sizeof(msg.h));
	msg.h.type = type;
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	return msg.h.status;
}

#endif
