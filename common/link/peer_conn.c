/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer_conn.c - a peer's connections: connect, hello, one request and its reply, loss and recovery.
 *
 *      UP --broken--> DOWN --attached again--> UP
 *                       \--lease over, session gone, appliance dead or restarted--> LOST (for ever)
 *
 * A request that was given up may still be on its way. Every hello names the connection it replaces (link id), which
 * the appliance then takes down before it answers: nothing old can be applied after what is sent here next.
 *
 * Runs on any thread with the peer's mutex held. Sockets are non-blocking; every wait has a deadline. Nothing
 * here allocates: messages live in the peer. It does not decide when to retry: callers and peer_tick do.
 */
#include "link/peer_impl.h"

#include "fdgate.h"
#include "log.h"
#include "sys.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#define LOCK_PAUSE_NS 500000 /* small beside a connection that is made anew */

int xm_peer_place(const struct xm_peer *p, int fd)
{
	int placed = p->place_fd ? p->place_fd(fd) : fd;

	return placed < 0 ? fd : placed;
}

static void say(char *why, const struct xm_peer *p, const char *what)
{
	if (why)
		xm_snprintf(why, XM_WHY_MAX, "%.70s: %s", p->uri_text, what);
}

static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	for (;;) {
		uint64_t now = xm_now_ns();
		int ret;

		if (now >= deadline_ns)
			return -ETIMEDOUT;
		ret = xm_sys_poll(&pfd, 1, deadline_ns - now);
		if (ret > 0)
			return 0;
		if (ret < 0 && ret != -EINTR)
			return ret;
	}
}

static int send_all(int fd, const uint8_t *bytes, size_t len, uint64_t deadline_ns)
{
	while (len) {
		ssize_t n = xm_sys_send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n == -EAGAIN) {
			n = wait_for(fd, POLLOUT, deadline_ns);
			if (n < 0)
				return (int)n;
			continue;
		}
		if (n == -EINTR)
			continue;
		if (n < 0)
			return (int)n;
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Those that came with a message, moved out of the program's way; more than there is room for are closed. */
static void take_fds(const struct xm_peer *p, struct msghdr *msg, struct xm_peer_fds *fds)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);
	int n;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return;
	n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	for (int i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(c) + (size_t)i * sizeof(int), sizeof(fd));
		if (fds->n < XM_WIRE_FDS)
			fds->fd[fds->n++] = xm_peer_place(p, fd);
		else
			xm_sys_close(fd);
	}
}

/* What there is, at once. Descriptors only for one who asks for them (fds not NULL); the kernel drops others. */
static ssize_t recv_some(const struct xm_peer *p, int fd, struct iovec *iov, struct xm_peer_fds *fds)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(XM_WIRE_FDS * sizeof(int))];
	} control;
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 1 };
	ssize_t n;

	if (!fds)
		return xm_sys_recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	msg.msg_control = control.room;
	msg.msg_controllen = sizeof(control.room);
	xm_fd_borrow();
	n = xm_sys_recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n >= 0)
		take_fds(p, &msg, fds);
	xm_fd_return();
	return n;
}

static int recv_all(struct xm_peer *p, int fd, size_t at, size_t len, uint64_t deadline_ns,
		    struct xm_peer_fds *fds)
{
	while (len) {
		struct iovec iov = { p->bytes + at, len };
		ssize_t n = recv_some(p, fd, &iov, fds);

		if (n == -EAGAIN) {
			n = wait_for(fd, POLLIN, deadline_ns);
			if (n < 0)
				return (int)n;
			continue;
		}
		if (n == -EINTR)
			continue;
		if (n < 0)
			return (int)n;
		if (n == 0)
			return -ECONNRESET;
		at += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* One request and its reply on `fd`. 0: p->rep is the reply, whatever its status. */
static int exchange(struct xm_peer *p, int fd, uint64_t deadline_ns, struct xm_peer_fds *fds)
{
	struct xm_wire_header h;
	int ret;

	p->req.h.seq = ++p->seq;
	ret = xm_wire_encode(&p->req, p->bytes, sizeof(p->bytes));
	if (ret < 0)
		return ret;
	xm_add(&p->messages, 1);
	ret = send_all(fd, p->bytes, (size_t)ret, deadline_ns);
	if (ret < 0 && ret != -EPIPE && ret != -ECONNRESET)
		return ret;
	/* after EPIPE the appliance's last words may still be there to read */
	ret = recv_all(p, fd, 0, XM_WIRE_HEADER, deadline_ns, fds);
	if (ret < 0)
		return ret;
	if (xm_wire_decode_header(p->bytes, XM_WIRE_HEADER, &h) < 0)
		return -EPROTO;
	ret = recv_all(p, fd, XM_WIRE_HEADER, h.length - XM_WIRE_HEADER, deadline_ns, fds);
	if (ret < 0)
		return ret;
	ret = xm_wire_decode(p->bytes, h.length, &p->rep);
	if (ret < 0)
		return -EPROTO;
	if (p->rep.h.type == XM_WIRE_ERROR) {
		xm_warn("%s: the appliance ended the connection: %s", p->uri_text, p->rep.u.error.text);
		return -ECONNRESET;
	}
	if (p->rep.h.type != p->req.h.type || p->rep.h.seq != p->req.h.seq ||
	    !(p->rep.h.flags & XM_WIRE_REPLY) || p->rep.h.status > 0)
		return -EPROTO;
	return 0;
}

void xm_peer_request(struct xm_peer *p, enum xm_wire_type type)
{
	memset(&p->req.h, 0, sizeof(p->req.h));
	memset(&p->req.u, 0, sizeof(p->req.u.create));
	p->req.h.type = (uint16_t)type;
}

void xm_peer_tune_socket(const struct xm_peer *p, int fd)
{
	int one = 1, idle = 2, interval = 2, probes = 3;
	unsigned user_timeout_ms = 10000;

	if (p->uri.kind == XM_URI_SHM)
		return;
	xm_sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	xm_sys_setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	xm_sys_setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	xm_sys_setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	xm_sys_setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	xm_sys_setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}

static int finish_connect(int fd, uint64_t deadline_ns)
{
	socklen_t len = sizeof(int);
	int err = 0;
	int ret = wait_for(fd, POLLOUT, deadline_ns);

	if (ret < 0)
		return ret;
	ret = xm_sys_getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	return ret < 0 ? ret : -err;
}

/* A socket, where the program does not look for its own descriptors: at once, and not when it is connected. */
static int make_socket(const struct xm_peer *p)
{
	int fd;

	xm_fd_borrow();
	fd = xm_sys_socket(p->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		fd = xm_peer_place(p, fd);
	xm_fd_return();
	return fd;
}

static int open_socket(struct xm_peer *p, uint64_t deadline_ns)
{
	int fd = make_socket(p);
	int ret;

	if (fd < 0)
		return fd;
	for (;;) {
		ret = xm_sys_connect(fd, (struct sockaddr *)&p->addr, p->addr_len);
		if (ret == -EINPROGRESS)
			ret = finish_connect(fd, deadline_ns);
		/* unix: the listener's queue is full for the moment */
		if (ret != -EAGAIN || xm_now_ns() >= deadline_ns)
			break;
		xm_sys_sleep(1000000);
	}
	if (ret < 0) {
		xm_sys_close(fd);
		return ret == -EAGAIN ? -ETIMEDOUT : ret;
	}
	xm_peer_tune_socket(p, fd);
	return fd;
}

static int explain_connect(const struct xm_peer *p, int err, char *why)
{
	char text[120];

	switch (-err) {
	case ENOENT:
	case ECONNREFUSED:
		say(why, p, "nobody listens there (is xmem-appliance running?)");
		return -ECONNREFUSED;
	case EACCES:
	case EPERM:
		say(why, p, "not allowed to connect (run as the user that runs the appliance)");
		return -EACCES;
	case ETIMEDOUT:
		say(why, p, "no answer in time (check the address and the firewall)");
		return -ETIMEDOUT;
	default:
		xm_snprintf(text, sizeof(text), "cannot connect: %s", xm_strerror(err));
		say(why, p, text);
		return err;
	}
}

static int explain_hello(const struct xm_peer *p, int err, char *why)
{
	char text[XM_WIRE_TEXT + 40];

	if (err == -EPROTO)
		say(why, p, "what answers there is no xmem appliance (check the port)");
	else if (err == -ETIMEDOUT)
		say(why, p,
		    "connected, but no answer to hello in time (is it an xmem appliance? is it stopped?)");
	else {
		xm_snprintf(text, sizeof(text), "the connection broke during hello: %s", xm_strerror(err));
		say(why, p, text);
	}
	return err;
}

static int check_hello_reply(struct xm_peer *p, char *why)
{
	const struct xm_wire_hello_reply *r = &p->rep.u.hello_reply;
	char text[XM_WIRE_TEXT + 40];

	if (p->rep.h.status < 0) {
		const struct xm_wire_error *e = &p->rep.u.error;

		if (p->rep.h.status == -EPROTONOSUPPORT)
			xm_snprintf(text, sizeof(text),
				    "the appliance speaks protocol %u.%u, this client %u.%u (update one)",
				    e->major, e->minor, XM_WIRE_MAJOR, XM_WIRE_MINOR);
		else
			xm_snprintf(text, sizeof(text), "refused: %s", e->text);
		say(why, p, text);
		return p->rep.h.status;
	}
	if (r->major != XM_WIRE_MAJOR) {
		say(why, p, "the appliance answered in another protocol version");
		return -EPROTONOSUPPORT;
	}
	if (r->slab_bytes < (1u << 20) || (r->slab_bytes & (r->slab_bytes - 1)) || !r->session) {
		say(why, p, "the appliance answered nonsense (slab size, session)");
		return -EPROTO;
	}
	return 0;
}

/* link 0: a control connection */
static int connect_as(struct xm_peer *p, uint64_t link, const struct xm_session_id *s, uint64_t deadline_ns,
		      int *out_fd, char *why)
{
	struct xm_wire_hello *h = &p->req.u.hello;
	int fd = open_socket(p, deadline_ns);
	int ret;

	if (fd < 0)
		return explain_connect(p, fd, why);
	xm_peer_request(p, XM_WIRE_HELLO);
	h->magic = XM_WIRE_MAGIC;
	h->major = XM_WIRE_MAJOR;
	h->minor = XM_WIRE_MINOR;
	h->role = link ? XM_WIRE_ROLE_DATA : XM_WIRE_ROLE_CONTROL;
	h->link = link ? link : p->link;
	h->features = 0;
	h->session = s->id;
	memcpy(h->token, s->token, sizeof(h->token));
	h->proc = p->self;
	memcpy(h->name, p->client_name, sizeof(h->name));
	ret = exchange(p, fd, deadline_ns, NULL);
	ret = ret < 0 ? explain_hello(p, ret, why) : check_hello_reply(p, why);
	if (ret < 0) {
		xm_sys_close(fd);
		return ret;
	}
	*out_fd = fd;
	return 0;
}

int xm_peer_connect(struct xm_peer *p, const struct xm_session_id *s, uint64_t deadline_ns, int *out_fd,
		    char *why)
{
	return connect_as(p, 0, s, deadline_ns, out_fd, why);
}

/* Others who talk to an appliance that does not answer hold the mutex for as long as they are patient, which may be
 * longer than the caller is. (pthread_mutex_clocklock would do, but the thread sanitizer does not know it.) */
int xm_peer_lock_until(struct xm_peer *p, uint64_t deadline_ns)
{
	while (pthread_mutex_trylock(&p->mutex) != 0) {
		if (xm_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		xm_sys_sleep(LOCK_PAUSE_NS);
	}
	return 0;
}

int xm_peer_connect_data(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, int *out_fd)
{
	uint64_t limit = xm_min(xm_now_ns() + p->connect_timeout_ns, deadline_ns);
	int ret = xm_peer_lock_until(p, limit);

	if (ret < 0)
		return ret;
	ret = xm_load(&p->conn) == XM_PEER_LOST ? -ENOLINK : 0;
	if (ret == 0) {
		ret = connect_as(p, link, &p->info.session, limit, out_fd, NULL);
		if (ret < 0)
			xm_peer_judge(p, ret);
	}
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

void xm_peer_lost(struct xm_peer *p, const char *reason)
{
	if (xm_load(&p->conn) == XM_PEER_LOST)
		return;
	xm_store(&p->conn, XM_PEER_LOST);
	if (p->fd >= 0)
		xm_sys_close(p->fd);
	p->fd = -1;
	xm_err("%s: the appliance is lost: %s", p->uri_text, reason);
}

void xm_peer_down(struct xm_peer *p)
{
	if (xm_load(&p->conn) != XM_PEER_UP)
		return;
	xm_store(&p->conn, XM_PEER_DOWN);
	if (p->fd >= 0)
		xm_sys_close(p->fd);
	p->fd = -1;
	p->down_since_ns = xm_now_ns();
	p->retry_at_ns = 0;
	p->backoff_ns = 1000000;
	xm_warn("%s: connection lost, trying again for %llu ms", p->uri_text,
		(unsigned long long)(p->lost_timeout_ns / 1000000));
}

void xm_peer_judge(struct xm_peer *p, int err)
{
	if (err == -ESTALE)
		xm_peer_lost(p, "it ended our session (lease over, or it was restarted)");
	else if (err == -EPROTONOSUPPORT || err == -EACCES)
		xm_peer_lost(p, "it refuses our session");
	else if (err == -ECONNREFUSED && p->uri.kind == XM_URI_SHM && p->uri.path[0] == '@')
		xm_peer_lost(p, "nobody listens any more");
	else if (xm_procid_check(&p->self, &p->appliance) == XM_PROC_DEAD)
		xm_peer_lost(p, "its process is dead");
	else if (p->down_since_ns && xm_load(&p->conn) == XM_PEER_DOWN &&
		 xm_now_ns() - p->down_since_ns >= p->lost_timeout_ns)
		xm_peer_lost(p, "no connection for longer than the time allowed");
}

int xm_peer_reattach(struct xm_peer *p, uint64_t deadline_ns)
{
	char why[XM_WHY_MAX];
	int fd, ret;

	if (xm_load(&p->conn) == XM_PEER_LOST)
		return -ENOLINK;
	ret = xm_peer_connect(p, &p->info.session, deadline_ns, &fd, why);
	if (ret < 0) {
		xm_peer_judge(p, ret);
		return -ENOLINK;
	}
	if (memcmp(p->rep.u.hello_reply.boot, p->info.session.boot, sizeof(p->info.session.boot)) != 0) {
		xm_sys_close(fd);
		xm_peer_lost(p, "it was restarted");
		return -ENOLINK;
	}
	p->fd = fd;
	p->down_since_ns = 0;
	xm_store(&p->conn, XM_PEER_UP);
	return 0;
}

/* The request must survive a reconnect, whose hello uses p->req. */
static int reattach_keeping_request(struct xm_peer *p, uint64_t deadline_ns)
{
	struct xm_wire_header h = p->req.h;
	struct xm_wire_region_create body = p->req.u.create; /* the largest request of a session */
	int ret = xm_peer_reattach(p, deadline_ns);

	_Static_assert(sizeof(body) >= sizeof(p->req.u.op), "requests fit");
	_Static_assert(sizeof(body) >= sizeof(p->req.u.slabs), "requests fit");
	_Static_assert(sizeof(body) >= sizeof(p->req.u.stat), "requests fit");
	p->req.h = h;
	p->req.u.create = body;
	if (ret == 0)
		xm_info("%s: connection is back", p->uri_text);
	return ret;
}

int xm_peer_call(struct xm_peer *p, struct xm_peer_fds *fds)
{
	uint64_t deadline_ns = xm_now_ns() + p->connect_timeout_ns;

	if (xm_load(&p->conn) == XM_PEER_LOST)
		return -ENOLINK;
	for (int attempt = 0; attempt < 2; attempt++) {
		int ret;

		if (fds)
			fds->n = 0;
		if (p->fd < 0 && reattach_keeping_request(p, deadline_ns) < 0)
			return -ENOLINK;
		ret = exchange(p, p->fd, deadline_ns, fds);
		if (ret == 0)
			return p->rep.h.status;
		/* whatever it was, the stream can no longer be trusted to be at the start of a message */
		for (int i = 0; fds && i < fds->n; i++)
			xm_sys_close(fds->fd[i]);
		xm_peer_down(p);
		if (xm_now_ns() >= deadline_ns)
			break;
	}
	if (fds)
		fds->n = 0;
	return -ENOLINK;
}
