/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.h - listening sockets and the server threads.
 *
 *   serve_shm.c, listen()   sockets            serve_ctl.c, _msg.c   control thread: every connection starts here
 *   serve_tcp.c             data thread: connections that introduced themselves as data are handed over
 *   serve_verbs.h           verbs thread: connections of RDMA, which have an introduction of their own
 */
#ifndef XM_SERVE_H
#define XM_SERVE_H

#include "appliance/appliance.h"
#include "link/uri.h"

#define XM_LISTEN_MAX 8

struct xm_listener {
	int fd;
	bool local;
	bool verbs;	     /* control connections of one-sided RDMA */
	char uri[160];	     /* resolved: the port that the kernel chose */
	char path[108];	     /* to unlink at the end; empty for abstract and tcp */
	uint64_t path_inode; /* with the time of creation: inode numbers are used again */
	struct timespec path_time;
};

/* Binds and listens. 0; -errno with one line in why (>= 160 bytes). A stale socket file is replaced only if
 * nobody listens on it. */
int xm_listen(const char *uri, struct xm_listener *out, char *why);
/* Closes, and removes the socket file if it is still ours. */
void xm_unlisten(struct xm_listener *l);
/* Sends bytes with descriptors attached to the first of them; as send(2): may send fewer. */
ssize_t xm_send_fds(int fd, const void *bytes, size_t len, const int *fds, int nfds);
/* No delay, and the end of a host that has vanished is noticed within some 10 s. */
void xm_tune_socket(int fd);
/* uid of the process at the other end of a unix socket; -1: unknown */
uid_t xm_peer_uid(int fd);

struct xm_ctl;
struct xm_data;

struct xm_data_hello {
	const uint8_t *bytes;
	uint32_t len;
};

struct xm_ctl_limits {
	unsigned connections; /* all; more are closed at once */
	unsigned strangers;   /* that have not said hello; the oldest makes room */
	uint64_t hello_ns;    /* time for hello */
	uint64_t stall_ns;    /* time for the rest of a message, in either direction */
};

/* data may be NULL: no tcp data path, nobody listens on tcp:. 0; -errno */
int xm_ctl_create(struct xm_appliance *a, struct xm_data *data, const struct xm_ctl_limits *limits,
		  struct xm_ctl **out);
void xm_ctl_destroy(struct xm_ctl *c);
/* l must outlive c. 0; -errno */
int xm_ctl_listen(struct xm_ctl *c, const struct xm_listener *l);
/* Calls fn(arg) whenever fd is readable (signalfd). 0; -errno */
int xm_ctl_watch(struct xm_ctl *c, int fd, void (*fn)(void *arg), void *arg);
/* Serves on the calling thread until xm_ctl_stop(). */
void xm_ctl_run(struct xm_ctl *c);
/* From any thread, or a watch function. */
void xm_ctl_stop(struct xm_ctl *c);

/* Starts the data thread. 0; -errno (-EPERM, -ENOSYS: no io_uring here) */
int xm_data_create(struct xm_appliance *a, struct xm_data **out);
void xm_data_destroy(struct xm_data *d);
/* Hands a connection over that has said hello: fd and the session's standing are the data thread's now, also on
 * failure. hello (at most XM_WIRE_HELLO_MAX bytes, copied) is the answer. It is sent when no connection of the
 * session with the same link id (0: none) can touch memory any more, or turned into a refusal after 2 s. */
void xm_data_adopt(struct xm_data *d, int fd, struct xm_session *s, uint64_t link,
		   const struct xm_data_hello *hello);

#endif
