/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_ctl.c - the control thread: every connection starts here, and control connections stay.
 *
 *     accepted -> STRANGER --hello--> MEMBER --bye, end of stream, nonsense, too slow--> dead
 *                     \---hello as data--> the data thread (serve_tcp.c), which answers it
 *
 * A peer may send anything at any speed. Bounds: a stranger's message 512 bytes and 5 s; a member's 64 KiB,
 * its buffer growing only as bytes arrive; one request answered before the next is looked at, so a peer that
 * does not read its replies is not served and, after stall_ns, not kept; one request a round, or as many as
 * TURN_NS has room for, and then it is others' turn; numbers of connections (a flood of strangers waits in the
 * kernel's queue, so that one who says hello is heard). Complaints in the log are rationed.
 * Connections die at the end of a round of events, because an event of the same round may still point at them.
 * How long a peer has been silent is judged by the time before the round's events were asked for: a request may
 * take long, and what comes meanwhile lies unread. One thread, no locks of its own.
 */
#include "appliance/request.h"
#include "appliance/serve.h"
#include "appliance/serve_verbs.h"

#include "log.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLOW_NS 1000000000ull /* a request that is worth a line */
#define RX_ROOM 512u
#define SWEEP_MS 250
#define EVENTS 64
#define ACCEPT_MAX 64 /* per event, so that a flood does not starve members */
#define COMPLAINTS_PER_S 5
#define GRACE_NS 100000000ull /* a stranger is not made to leave earlier: it may be about to say hello */
#define PAUSE_MS 10
#define TURN_NS 10000000ull /* of one connection in a round; the rest of what it asks for waits */

enum source_kind { SOURCE_LISTENER, SOURCE_CONN, SOURCE_WATCH, SOURCE_WAKE, SOURCE_STOP };

struct source {
	enum source_kind kind;
	int fd;
	bool local;	       /* listener */
	void (*fn)(void *arg); /* watch */
	void *arg;
};

struct conn {
	struct source source;
	bool local, dead, bye;
	bool more;     /* a whole message is in rx and waits for its turn */
	bool replaced; /* by the next control connection of its link */
	bool closing;  /* after what is in tx */
	uint32_t
		handover; /* to the data thread, with an answer to hello of this length in xm_ctl.bytes; 0: stays */
	uint32_t events;  /* that are waited for */
	uint64_t round;	  /* when it was served last */
	uint64_t link;	  /* from its hello */
	uid_t uid;
	struct xm_session *session; /* NULL: stranger */
	struct xm_procid proc;	    /* from its hello */
	uint64_t opened_ns;
	uint64_t stalled_ns; /* since when a message is half in or half out; 0: none is */
	uint8_t *rx, *tx;
	uint32_t rx_len, rx_room, tx_len, tx_sent;
	struct conn *next;
};

struct xm_ctl {
	struct xm_appliance *a;
	struct xm_data *data;
	struct xm_ctl_limits limits;
	int epoll_fd;
	int spare_fd; /* given up for a moment to turn a connection away when descriptors run out; -1: lost */
	struct source wake, stop;
	struct source extra[XM_LISTEN_MAX + 4];
	unsigned extras;
	bool stopping;
	bool paused; /* nothing is accepted: too many strangers, all of them new; or spare_fd is gone */
	struct conn *conns; /* newest first */
	unsigned conn_count, strangers;
	uint64_t round;	   /* of events */
	bool more;	   /* some connection's is set */
	uint64_t heard_ns; /* what came before is in this round's events, or was heard before */
	uint64_t complaint_second;
	unsigned complaints;
	struct xm_wire_msg in, out;
	uint8_t bytes[XM_WIRE_MAX];
};

static bool may_complain(struct xm_ctl *c)
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

static void kill_conn(struct xm_ctl *c, struct conn *conn)
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
	if (conn->session)
		xm_session_leave(c->a, conn->session, conn->handover ? NULL : &conn->proc, conn->bye);
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
		  struct xm_request *with)
{
	int fds[XM_WIRE_FDS], nfds = 0;
	ssize_t n;

	for (unsigned i = 0; with && i < with->slabs; i++)
		fds[nfds++] = with->slab[i]->fd;
	n = xm_send_fds(conn->source.fd, bytes, len, fds, nfds);
	if (n == -EAGAIN || n == -EINTR) {
		/* a reply with slabs that cannot start is a peer that has filled its socket with requests */
		if (nfds)
			kill_conn(c, conn);
		n = 0;
	}
	if (n < 0)
		kill_conn(c, conn);
	if (conn->dead)
		return;
	if ((uint32_t)n == len)
		return;
	conn->tx = malloc(len - (uint32_t)n);
	if (!conn->tx) {
		kill_conn(c, conn);
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
		kill_conn(c, conn);
		return;
	}
	conn->tx_sent += (uint32_t)n;
	if (conn->tx_sent < conn->tx_len)
		return;
	free(conn->tx);
	conn->tx = NULL;
	conn->tx_len = conn->tx_sent = 0;
}

static void reply(struct xm_ctl *c, struct conn *conn, struct xm_request *with)
{
	int len = xm_wire_encode(&c->out, c->bytes, sizeof(c->bytes));

	if (len < 0) {
		xm_err("bug: reply of type %u cannot be encoded: %s", c->out.h.type, xm_strerror(len));
		kill_conn(c, conn);
		return;
	}
	flush(c, conn, c->bytes, (uint32_t)len, with);
}

/* A last word, then the end. */
static void dismiss(struct xm_ctl *c, struct conn *conn, int status, const char *text)
{
	memset(&c->out.h, 0, sizeof(c->out.h));
	c->out.h.type = XM_WIRE_ERROR;
	xm_request_refuse(&c->out, status, text, 0);
	reply(c, conn, NULL);
	conn->closing = true;
	if (may_complain(c))
		xm_warn("%s connection ended: %s", conn->local ? "shm" : "tcp", text);
}

/* ---- messages ----------------------------------------------------------------------------------------- */

static void welcome(struct xm_ctl *c, struct xm_session *s)
{
	struct xm_wire_hello_reply *h = &c->out.u.hello_reply;
	struct xm_pool_stat pool;

	memset(h, 0, sizeof(*h));
	xm_pool_stat(&c->a->pool, &pool);
	h->major = XM_WIRE_MAJOR;
	h->minor = XM_WIRE_MINOR;
	h->session = s->id;
	memcpy(h->token, s->token, sizeof(h->token));
	memcpy(h->boot, c->a->boot, sizeof(h->boot));
	h->slab_bytes = c->a->pool.kind.bytes;
	h->page_bytes = c->a->pool.kind.huge_bytes ? (uint32_t)c->a->pool.kind.huge_bytes : XM_PAGE_SIZE;
	h->lease_ns = xm_load(&c->a->lease_ns);
	h->total_bytes = pool.total_bytes;
	h->free_bytes = pool.free_bytes;
	h->proc = c->a->self;
	memcpy(h->name, c->a->name, sizeof(h->name));
}

/* Is this a hello that can be answered? 0 or the status of the refusal. */
static int check_hello(struct xm_ctl *c, const struct conn *conn, char text[XM_WIRE_TEXT])
{
	const struct xm_wire_hello *h = &c->in.u.hello;

	if (h->major != XM_WIRE_MAJOR) {
		xm_snprintf(text, XM_WIRE_TEXT,
			    "client speaks protocol %u.%u, this appliance %u.%u (update one of them)",
			    h->major, h->minor, XM_WIRE_MAJOR, XM_WIRE_MINOR);
		return -EPROTONOSUPPORT;
	}
	if (h->role != XM_WIRE_ROLE_CONTROL && h->role != XM_WIRE_ROLE_DATA) {
		xm_snprintf(text, XM_WIRE_TEXT, "no such role: %u", h->role);
		return -EINVAL;
	}
	if (h->role == XM_WIRE_ROLE_DATA && (conn->local || !c->data)) {
		xm_snprintf(text, XM_WIRE_TEXT, "data connections are for tcp: map the slabs instead");
		return -EINVAL;
	}
	return 0;
}

/* A control connection takes the place of the link's former one: what that one still carries must not be
 * carried out after what is asked on this one. */
static void fence(struct xm_ctl *c, const struct conn *conn)
{
	for (struct conn *o = c->conns; o; o = o->next) {
		if (o == conn || o->dead || !conn->link || o->link != conn->link ||
		    o->session != conn->session)
			continue;
		o->replaced = true;
		kill_conn(c, o);
	}
}

/* Has the peer closed it? Then its hello, which waited here, is older than what the link has by now. */
static bool given_up(const struct conn *conn)
{
	uint8_t byte;

	return recv(conn->source.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void answer_hello(struct xm_ctl *c, struct conn *conn, struct xm_session *s)
{
	int len;

	welcome(c, s);
	conn->session = s;
	conn->proc = c->in.u.hello.proc;
	conn->link = c->in.u.hello.link;
	c->strangers--;
	if (c->in.u.hello.role == XM_WIRE_ROLE_CONTROL) {
		fence(c, conn);
		xm_verbs_notice(c->a->verbs, XM_VERBS_CONTROL_BACK, s->id, conn->link);
		reply(c, conn, NULL);
		return;
	}
	len = xm_wire_encode(&c->out, c->bytes, XM_WIRE_HELLO_MAX);
	xm_assert(len > 0);
	conn->handover = (uint32_t)len;
}

static void handle_hello(struct xm_ctl *c, struct conn *conn)
{
	struct xm_hello_context context = { .local = conn->local, .uid = conn->uid };
	struct xm_session *s = NULL;
	char text[XM_WIRE_TEXT] = "";
	uint32_t seq = c->in.h.seq;
	int ret;

	if (c->in.u.hello.magic != XM_WIRE_MAGIC) {
		dismiss(c, conn, -EPROTO, "a stranger does not speak this protocol");
		return;
	}
	if (c->in.u.hello.link && given_up(conn)) {
		kill_conn(c, conn);
		return;
	}
	ret = check_hello(c, conn, text);
	if (ret == 0)
		ret = xm_session_enter(c->a, &c->in.u.hello, &context, &s, text);
	c->out.h = (struct xm_wire_header){ .type = XM_WIRE_HELLO, .flags = XM_WIRE_REPLY, .seq = seq };
	if (ret < 0) {
		xm_request_refuse(&c->out, ret, text, 0);
		conn->closing = true;
		if (may_complain(c))
			xm_warn("hello refused (%s): %s", conn->local ? "shm" : "tcp", text);
		reply(c, conn, NULL);
	} else {
		answer_hello(c, conn, s);
	}
}

static void handle_request(struct xm_ctl *c, struct conn *conn)
{
	struct xm_request r = {
		.a = c->a, .session = conn->session, .local = conn->local, .in = &c->in, .out = &c->out
	};
	uint64_t began = xm_now_ns(), took;

	xm_request_answer(&r);
	took = xm_now_ns() - began;
	if (took > SLOW_NS)
		xm_warn("a request of type %u took %llu ms, while everybody else's waited (a slow RDMA device, or too little "
			"memory on this host?)",
			(unsigned)c->in.h.type, (unsigned long long)(took / 1000000));
	conn->bye = conn->bye || r.bye;
	reply(c, conn, &r);
	for (unsigned i = 0; i < r.slabs; i++)
		xm_slab_put(&c->a->pool, r.slab[i], false);
}

static void handle_message(struct xm_ctl *c, struct conn *conn, uint32_t len)
{
	int ret = xm_wire_decode(conn->rx, len, &c->in);
	bool reply_flag = ret != -EPROTO && (c->in.h.flags & XM_WIRE_REPLY);

	if (ret == -EPROTO || reply_flag || (ret == -ENOSYS && !conn->session))
		dismiss(c, conn, -EPROTO, "malformed message");
	else if ((c->in.h.type == XM_WIRE_HELLO) == (conn->session != NULL))
		dismiss(c, conn, -EPROTO,
			conn->session ? "a second hello" : "the first message is not hello");
	else if (!conn->session)
		handle_hello(c, conn);
	else
		handle_request(c, conn);
}

/* Bytes of the message that rx starts with; 0: not known yet; or -errno when there can be no such message. */
static int message_length(const struct conn *conn)
{
	struct xm_wire_header h;
	int ret = xm_wire_decode_header(conn->rx, conn->rx_len, &h);

	if (ret == -EAGAIN)
		return 0;
	if (ret < 0 || (!conn->session && h.length > XM_WIRE_HELLO_MAX))
		return -EPROTO;
	return (int)h.length;
}

/* Serves what rx holds until a reply has to wait for its reader, or its turn is over. */
static void serve(struct xm_ctl *c, struct conn *conn)
{
	uint64_t began = xm_now_ns();
	bool first = true;

	conn->round = c->round;
	conn->more = false;
	while (!conn->dead && !conn->tx && !conn->closing && !conn->handover) {
		int len = message_length(conn);

		if (len < 0) {
			dismiss(c, conn, -EPROTO, "malformed message");
			break;
		}
		if (!len || conn->rx_len < (uint32_t)len)
			break;
		if (!first && xm_now_ns() - began > TURN_NS) {
			conn->more = true;
			break;
		}
		first = false;
		handle_message(c, conn, (uint32_t)len);
		conn->stalled_ns = 0; /* a peer that sends requests without a break is none that stalls */
		conn->rx_len -= (uint32_t)len;
		memmove(conn->rx, conn->rx + len, conn->rx_len);
	}
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
		kill_conn(c, conn);
		return;
	}
	n = recv(conn->source.fd, conn->rx + conn->rx_len, conn->rx_room - conn->rx_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		kill_conn(c, conn);
		return;
	}
	conn->rx_len += (uint32_t)n;
}

/* What the connection waits for now. */
static void settle(struct xm_ctl *c, struct conn *conn)
{
	bool half = conn->tx || (conn->rx_len && !conn->more);
	uint32_t events = conn->tx ? EPOLLOUT : conn->more ? 0 : EPOLLIN;

	if (conn->dead)
		return;
	if (!conn->tx && conn->closing) {
		kill_conn(c, conn);
		return;
	}
	if (!conn->tx && conn->handover) {
		if (conn->rx_len) /* bytes that came before the answer belong to nobody */
			kill_conn(c, conn);
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
			serve(c, conn);
		settle(c, conn);
	}
}

static void conn_event(struct xm_ctl *c, struct conn *conn, uint32_t events)
{
	if (conn->dead)
		return;
	if (conn->tx) {
		flush_rest(c, conn);
		if (!conn->dead && (events & EPOLLERR))
			kill_conn(c, conn);
		if (!conn->dead && !conn->tx)
			conn->stalled_ns = 0;
	} else if (!conn->more) {
		receive(c, conn);
	}
	serve(c, conn);
	if (!conn->tx && conn->rx_len == 0)
		conn->stalled_ns = 0;
	settle(c, conn);
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
		kill_conn(c, oldest);
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
		if (may_complain(c))
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
		if (may_complain(c))
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
			kill_conn(c, conn);
		} else if (conn->stalled_ns && is_past(c, conn->stalled_ns, c->limits.stall_ns)) {
			if (may_complain(c))
				xm_warn("a connection stalled in the middle of a message, closed");
			kill_conn(c, conn);
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
	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ret = c->epoll_fd < 0 || c->stop.fd < 0 || !have_spare(c) ? -EMFILE : 0;
	if (ret == 0)
		ret = watch(c, &c->wake, EPOLLIN, EPOLL_CTL_ADD);
	if (ret == 0)
		ret = watch(c, &c->stop, EPOLLIN, EPOLL_CTL_ADD);
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
		kill_conn(c, conn);
	bury(c);
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	if (c->stop.fd >= 0)
		close(c->stop.fd);
	if (c->spare_fd >= 0)
		close(c->spare_fd);
	free(c);
}
