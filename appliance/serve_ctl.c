/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_ctl.c - the control thread: every connection starts here, and control connections stay.
 *
 *     accepted -> STRANGER --hello--> MEMBER --bye, end of stream, nonsense, too slow--> dead
 *                     \---hello as data--> the data thread (serve_tcp.c), which answers it
 *
 * A peer may send anything at any speed. Bounds: a stranger's message 512 bytes and 5 s; a member's 64 KiB,
 * its buffer growing only as bytes arrive; one request answered before the next is looked at (serve_msg.c), so a peer
 * that does not read its replies is not served and, after stall_ns, not kept; a turn of some ms each round; numbers
 * of connections (a flood of strangers waits in the kernel's queue, so that one who says hello is heard). Complaints in
 * the log are rationed.
 * Connections die at the end of a round of events, because an event of the same round may still point at them.
 * How long a peer has been silent is judged by the time before the round's events were asked for: a round may
 * take long, and what comes meanwhile lies unread. One thread, no locks of its own.
 */
#include "appliance/serve_ctl_impl.h"
#include "appliance/serve_verbs.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RX_ROOM 512u
#define SWEEP_MS 250
#define EVENTS 64
#define ACCEPT_MAX 64 /* per event, so that a flood does not starve members */
#define COMPLAINTS_PER_S 5
#define GRACE_NS 100000000ull /* a stranger is not made to leave earlier: it may be about to say hello */
#define PAUSE_MS 10

bool xm_ctl_may_complain(struct xm_ctl *c)
{
	uint64_t second = xm_now_ns() / 1000000000ull;

	xm_add(&c->a->refused, 1);
	if (second != c->complaint_second) {
		c->complaint_second = second;
		c->complaints = 0;
	}
	return c->complaints++ < COMPLAINTS_PER_S;
}

static int watch(struct xm_ctl *c, struct source *s, uint32_t events, int op)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	return epoll_ctl(c->epoll_fd, op, s->fd, &ev) < 0 ? -errno : 0;
}

/* ---- connections -------------------------------------------------------------------------------------- */

void xm_ctl_kill(struct xm_ctl *c, struct conn *conn)
{
	if (conn->dead)
		return;
	conn->dead = true;
	if (!conn->session)
		c->strangers--;
	if (conn->source.fd >= 0)
		close(conn->source.fd);
	conn->source.fd = -1;
	if (conn->session && !conn->replaced && !conn->handover)
		xm_verbs_notice(c->a->verbs, conn->bye ? XM_VERBS_CONTROL_BYE : XM_VERBS_CONTROL_GONE, conn->session->id,
				conn->link);
	if (conn->job)
		conn->job->owner = NULL;
	conn->job = NULL;
	if (conn->session) {
		xm_ctl_leave_line(conn);
		xm_session_leave(c->a, conn->session, conn->handover ? NULL : &conn->proc, conn->bye);
	}
	conn->session = NULL;
	xm_sub(&c->a->connections, 1);
}

static void bury(struct xm_ctl *c)
{
	for (struct conn **at = &c->conns; *at;) {
		struct conn *conn = *at;

		if (!conn->dead) {
			at = &conn->next;
			continue;
		}
		*at = conn->next;
		c->conn_count--;
		free(conn->rx);
		free(conn->tx);
		free(conn);
	}
}

static void give_to_data(struct xm_ctl *c, struct conn *conn)
{
	struct xm_data_hello hello = { c->bytes, conn->handover };
	struct xm_session *s = conn->session;
	int fd = conn->source.fd;

	/* io_uring waits by itself; on a non-blocking socket it would answer EAGAIN instead */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	watch(c, &conn->source, 0, EPOLL_CTL_DEL);
	conn->source.fd = -1;
	conn->session = NULL;
	conn->dead = true;
	xm_sub(&c->a->connections, 1);
	xm_data_adopt(c->data, fd, s, conn->link, &hello);
}

/* Sends what waits. Slabs go with the first byte. */
static void flush(struct xm_ctl *c, struct conn *conn, const uint8_t *bytes, uint32_t len,
		  const struct xm_request *with)
{
	int fds[XM_WIRE_FDS], nfds = 0;
	ssize_t n;

	for (unsigned i = 0; with && i < with->slabs; i++)
		fds[nfds++] = with->fd[i];
	n = xm_send_fds(conn->source.fd, bytes, len, fds, nfds);
	if (n == -EAGAIN || n == -EINTR) {
		/* a reply with slabs that cannot start is a peer that has filled its socket with requests */
		if (nfds)
			xm_ctl_kill(c, conn);
		n = 0;
	}
	if (n < 0)
		xm_ctl_kill(c, conn);
	if (conn->dead)
		return;
	if ((uint32_t)n == len)
		return;
	conn->tx = malloc(len - (uint32_t)n);
	if (!conn->tx) {
		xm_ctl_kill(c, conn);
		return;
	}
	conn->tx_len = len - (uint32_t)n;
	conn->tx_sent = 0;
	memcpy(conn->tx, bytes + n, conn->tx_len);
}

static void flush_rest(struct xm_ctl *c, struct conn *conn)
{
	ssize_t n = xm_send_fds(conn->source.fd, conn->tx + conn->tx_sent, conn->tx_len - conn->tx_sent, NULL,
				0);

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n < 0) {
		xm_ctl_kill(c, conn);
		return;
	}
	conn->tx_sent += (uint32_t)n;
	if (conn->tx_sent < conn->tx_len)
		return;
	free(conn->tx);
	conn->tx = NULL;
	conn->tx_len = conn->tx_sent = 0;
}

void xm_ctl_reply(struct xm_ctl *c, struct conn *conn, struct xm_wire_msg *m, const struct xm_request *with)
{
	int len = xm_wire_encode(m, c->bytes, sizeof(c->bytes));

	if (len < 0) {
		xm_err("bug: reply of type %u cannot be encoded: %s", m->h.type, xm_strerror(len));
		xm_ctl_kill(c, conn);
		return;
	}
	flush(c, conn, c->bytes, (uint32_t)len, with);
}

/* Room for more of the message: what has come decides, not what its header claims. */
static int make_room(struct conn *conn)
{
	uint32_t room = conn->rx_room;
	uint8_t *rx;

	if (conn->rx_len < RX_ROOM && room > RX_ROOM * 8)
		room = RX_ROOM;
	else if (conn->rx_len == room)
		room = xm_min(xm_max(room * 2, RX_ROOM), XM_WIRE_MAX);
	if (room == conn->rx_room)
		return 0;
	rx = realloc(conn->rx, room);
	if (!rx)
		return -ENOMEM;
	conn->rx = rx;
	conn->rx_room = room;
	return 0;
}

static void receive(struct xm_ctl *c, struct conn *conn)
{
	ssize_t n;

	if (make_room(conn) < 0) {
		xm_ctl_kill(c, conn);
		return;
	}
	n = recv(conn->source.fd, conn->rx + conn->rx_len, conn->rx_room - conn->rx_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		xm_ctl_kill(c, conn);
		return;
	}
	conn->rx_len += (uint32_t)n;
}

void xm_ctl_settle(struct xm_ctl *c, struct conn *conn)
{
	bool theirs = !conn->more && !conn->job && !conn->waiting; /* it is they who have to do something */
	bool half = conn->tx || (conn->rx_len && theirs);
	/* of one that waits for us no more than a hang-up is told, and once */
	uint32_t events = conn->tx ? EPOLLOUT : theirs ? EPOLLIN : EPOLLET;

	if (conn->dead)
		return;
	if (!conn->tx && conn->closing) {
		xm_ctl_kill(c, conn);
		return;
	}
	if (!conn->tx && conn->handover) {
		if (conn->rx_len) /* bytes that came before the answer belong to nobody */
			xm_ctl_kill(c, conn);
		else
			give_to_data(c, conn);
		return;
	}
	conn->stalled_ns = !half ? 0 : conn->stalled_ns ? conn->stalled_ns : xm_now_ns();
	c->more = c->more || conn->more;
	if (conn->events != events) {
		conn->events = events;
		watch(c, &conn->source, events, EPOLL_CTL_MOD);
	}
}

/* Those who were interrupted in an earlier round. */
static void go_on(struct xm_ctl *c)
{
	if (!c->more)
		return;
	c->more = false;
	for (struct conn *conn = c->conns; conn; conn = conn->next) {
		if (conn->dead || !conn->more)
			continue;
		if (conn->round != c->round)
			xm_ctl_serve(c, conn);
		xm_ctl_settle(c, conn);
	}
}

static void conn_event(struct xm_ctl *c, struct conn *conn, uint32_t events)
{
	if (conn->dead)
		return;
	if (conn->tx) {
		flush_rest(c, conn);
		if (!conn->dead && (events & EPOLLERR))
			xm_ctl_kill(c, conn);
		if (!conn->dead && !conn->tx)
			conn->stalled_ns = 0;
	} else if (!conn->more && !conn->job && !conn->waiting) {
		receive(c, conn);
	}
	xm_ctl_serve(c, conn);
	if (!conn->tx && conn->rx_len == 0)
		conn->stalled_ns = 0;
	xm_ctl_settle(c, conn);
}

/* ---- accepting ---------------------------------------------------------------------------------------- */

/* Was all that came within `ns` of this time heard? */
static bool is_past(const struct xm_ctl *c, uint64_t since_ns, uint64_t ns)
{
	return c->heard_ns > since_ns && c->heard_ns - since_ns > ns;
}

/* Room for one more stranger: there is, or the oldest one has had its chance. */
static bool room_for_stranger(struct xm_ctl *c)
{
	struct conn *oldest = NULL;

	if (c->strangers < c->limits.strangers)
		return true;
	for (struct conn *conn = c->conns; conn; conn = conn->next)
		if (!conn->dead && !conn->session)
			oldest = conn;
	if (oldest && !is_past(c, oldest->opened_ns, GRACE_NS))
		return false;
	if (oldest)
		xm_ctl_kill(c, oldest);
	return true;
}

static void pause_accepting(struct xm_ctl *c, bool pause)
{
	for (unsigned i = 0; i < c->extras; i++)
		if (c->extra[i].kind == SOURCE_LISTENER)
			watch(c, &c->extra[i], pause ? 0 : EPOLLIN, EPOLL_CTL_MOD);
	c->paused = pause;
}

static void admit(struct xm_ctl *c, int fd, bool local)
{
	struct conn *conn;

	if (c->conn_count + xm_load_relaxed(&c->a->data_connections) >= c->limits.connections) {
		if (xm_ctl_may_complain(c))
			xm_warn("a connection was turned away: %u are open", c->conn_count);
		close(fd);
		return;
	}
	conn = calloc(1, sizeof(*conn));
	if (!conn) {
		close(fd);
		return;
	}
	conn->source = (struct source){ .kind = SOURCE_CONN, .fd = fd };
	conn->local = local;
	conn->uid = local ? xm_peer_uid(fd) : (uid_t)-1;
	conn->opened_ns = xm_now_ns();
	conn->events = EPOLLIN;
	if (!local)
		xm_tune_socket(fd);
	if (watch(c, &conn->source, conn->events, EPOLL_CTL_ADD) < 0) {
		close(fd);
		free(conn);
		return;
	}
	conn->next = c->conns;
	c->conns = conn;
	c->conn_count++;
	c->strangers++;
	xm_add(&c->a->connections, 1);
}

static bool have_spare(struct xm_ctl *c)
{
	if (c->spare_fd < 0)
		c->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return c->spare_fd >= 0;
}

static void accept_some(struct xm_ctl *c, const struct source *l)
{
	for (int i = 0; i < ACCEPT_MAX && !c->paused; i++) {
		int fd;

		if (!room_for_stranger(c)) {
			pause_accepting(c, true);
			break;
		}
		fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			admit(c, fd, l->local);
			continue;
		}
		if (errno != EMFILE && errno != ENFILE)
			return;
		/* without this the listener would stay readable and the thread spin */
		close(c->spare_fd);
		c->spare_fd = -1;
		fd = accept(l->fd, NULL, NULL);
		if (fd >= 0)
			close(fd);
		if (!have_spare(c)) /* another thread was faster: nobody is turned away before it is back */
			pause_accepting(c, true);
		if (xm_ctl_may_complain(c))
			xm_warn("out of file descriptors: connections are turned away (raise the limit, or --slab)");
	}
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

static void sweep(struct xm_ctl *c)
{
	for (struct conn *conn = c->conns; conn; conn = conn->next) {
		if (conn->dead)
			continue;
		if (!conn->session && is_past(c, conn->opened_ns, c->limits.hello_ns)) {
			xm_add(&c->a->refused, 1);
			xm_ctl_kill(c, conn);
		} else if (conn->stalled_ns && is_past(c, conn->stalled_ns, c->limits.stall_ns)) {
			if (xm_ctl_may_complain(c))
				xm_warn("a connection stalled in the middle of a message, closed");
			xm_ctl_kill(c, conn);
		}
	}
}

static void dispatch(struct xm_ctl *c, struct source *s, uint32_t events)
{
	uint64_t count;
	ssize_t n;

	switch (s->kind) {
	case SOURCE_LISTENER: accept_some(c, s); break;
	case SOURCE_CONN: conn_event(c, xm_container_of(s, struct conn, source), events); break;
	case SOURCE_WATCH: s->fn(s->arg); break;
	case SOURCE_STOP: c->stopping = true; break;
	case SOURCE_JOBS:
		n = read(s->fd, &count, sizeof(count));
		xm_ctl_finish_jobs(c, false);
		break;
	case SOURCE_WAKE:
		n = read(s->fd, &count, sizeof(count));
		(void)n; /* the reaper runs every round */
		break;
	}
}

/* How long to wait for events, in ms; -1: for as long as it takes. */
static int patience(const struct xm_ctl *c, uint64_t now_ns, uint64_t due_ns)
{
	int timeout = c->conns ? SWEEP_MS : -1;

	if (c->more)
		return 0;
	if (c->paused)
		return PAUSE_MS;
	if (due_ns != UINT64_MAX) {
		int ms = due_ns <= now_ns ? 0 : (int)((due_ns - now_ns) / 1000000 + 1);

		timeout = timeout < 0 ? ms : xm_min(timeout, ms);
	}
	return timeout;
}

void xm_ctl_run(struct xm_ctl *c)
{
	struct epoll_event ev[EVENTS];
	uint64_t swept = xm_now_ns();

	while (!c->stopping) {
		uint64_t due = xm_session_reap(c->a), now = xm_now_ns();
		int n = epoll_wait(c->epoll_fd, ev, EVENTS, patience(c, now, due));
		bool all = n >= 0 && n < EVENTS; /* else others may wait to be heard */

		if (all)
			c->heard_ns = now;
		c->round++;
		/* those who are there before those who want to come, and may need the room of one who says nothing */
		for (int i = 0; i < n; i++)
			if (((struct source *)ev[i].data.ptr)->kind != SOURCE_LISTENER)
				dispatch(c, ev[i].data.ptr, ev[i].events);
		go_on(c);
		for (int i = 0; i < n; i++)
			if (((struct source *)ev[i].data.ptr)->kind == SOURCE_LISTENER)
				dispatch(c, ev[i].data.ptr, ev[i].events);
		if (c->paused && have_spare(c) && room_for_stranger(c))
			pause_accepting(c, false);
		if (all && is_past(c, swept, SWEEP_MS * 1000000ull)) {
			sweep(c);
			swept = now;
		}
		bury(c);
	}
}

void xm_ctl_stop(struct xm_ctl *c)
{
	uint64_t one = 1;
	ssize_t n = write(c->stop.fd, &one, sizeof(one));

	(void)n;
}

int xm_ctl_listen(struct xm_ctl *c, const struct xm_listener *l)
{
	struct source *s = &c->extra[c->extras];

	if (c->extras == XM_ARRAY_SIZE(c->extra))
		return -ENOSPC;
	*s = (struct source){ .kind = SOURCE_LISTENER, .fd = l->fd, .local = l->local };
	c->extras++;
	return watch(c, s, EPOLLIN, EPOLL_CTL_ADD);
}

int xm_ctl_watch(struct xm_ctl *c, int fd, void (*fn)(void *arg), void *arg)
{
	struct source *s = &c->extra[c->extras];

	if (c->extras == XM_ARRAY_SIZE(c->extra))
		return -ENOSPC;
	*s = (struct source){ .kind = SOURCE_WATCH, .fd = fd, .fn = fn, .arg = arg };
	c->extras++;
	return watch(c, s, EPOLLIN, EPOLL_CTL_ADD);
}

int xm_ctl_create(struct xm_appliance *a, struct xm_data *data, const struct xm_ctl_limits *limits,
		  struct xm_ctl **out)
{
	struct xm_ctl *c = calloc(1, sizeof(*c));
	int ret = -ENOMEM;

	if (!c)
		return ret;
	c->a = a;
	c->data = data;
	c->limits = *limits;
	c->spare_fd = -1;
	c->wake = (struct source){ .kind = SOURCE_WAKE, .fd = a->wake_fd };
	c->stop = (struct source){ .kind = SOURCE_STOP, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	c->done = (struct source){ .kind = SOURCE_JOBS, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ret = c->epoll_fd < 0 || c->stop.fd < 0 || c->done.fd < 0 || !have_spare(c) ? -EMFILE : 0;
	if (ret == 0)
		ret = watch(c, &c->wake, EPOLLIN, EPOLL_CTL_ADD);
	if (ret == 0)
		ret = watch(c, &c->stop, EPOLLIN, EPOLL_CTL_ADD);
	if (ret == 0)
		ret = watch(c, &c->done, EPOLLIN, EPOLL_CTL_ADD);
	if (ret == 0)
		ret = xm_jobs_create(c->done.fd, &c->jobs);
	if (ret < 0) {
		xm_ctl_destroy(c);
		return ret;
	}
	*out = c;
	return 0;
}

void xm_ctl_destroy(struct xm_ctl *c)
{
	if (!c)
		return;
	for (struct conn *conn = c->conns; conn; conn = conn->next)
		xm_ctl_kill(c, conn);
	if (c->jobs)
		xm_ctl_finish_jobs(c, true);
	xm_jobs_destroy(c->jobs);
	bury(c);
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	if (c->stop.fd >= 0)
		close(c->stop.fd);
	if (c->done.fd >= 0)
		close(c->done.fd);
	if (c->spare_fd >= 0)
		close(c->spare_fd);
	free(c);
}
