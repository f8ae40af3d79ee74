/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_msg.c - messages of control connections: hello, and requests. The control thread.
 *
 *     request --answered at once--> reply
 *             --changes made, a rest remains--> job (job.h) --done--> reply, and the connection's next message
 *
 * A session has one job at a time, so what happens to its slabs and their keys happens in one order; its other
 * connections' requests of that kind wait in line, and quick ones do not. A connection that is replaced leaves at most
 * a job behind, whose changes have been made: nothing is carried out after its successor's hello.
 */
#include "appliance/serve_ctl_impl.h"
#include "appliance/serve_verbs.h"

#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SLOW_NS 1000000000ull /* a request that is worth a line */
#define TURN_NS 10000000ull /* of one connection in a round; the rest of what it asks for waits */

/* A last word, then the end. */
static void dismiss(struct xm_ctl *c, struct conn *conn, int status, const char *text)
{
	memset(&c->out.h, 0, sizeof(c->out.h));
	c->out.h.type = XM_WIRE_ERROR;
	xm_request_refuse(&c->out, status, text, 0);
	xm_ctl_reply(c, conn, &c->out, NULL);
	conn->closing = true;
	if (xm_ctl_may_complain(c))
		xm_warn("%s connection ended: %s", conn->local ? "shm" : "tcp", text);
}

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
		xm_ctl_kill(c, o);
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
	conn->minor = c->in.u.hello.minor;
	c->strangers--;
	if (c->in.u.hello.role == XM_WIRE_ROLE_CONTROL) {
		fence(c, conn);
		xm_verbs_notice(c->a->verbs, XM_VERBS_CONTROL_BACK, s->id, conn->link);
		xm_ctl_reply(c, conn, &c->out, NULL);
		return;
	}
	len = xm_wire_encode(&c->out, c->bytes, XM_WIRE_HELLO_MAX);
	xm_assert(len > 0);
	conn->handover = (uint32_t)len;
}

static struct xm_hello_context peer_of(const struct conn *conn)
{
	return (struct xm_hello_context){ .local = conn->local, .uid = conn->uid };
}

static void handle_hello(struct xm_ctl *c, struct conn *conn)
{
	struct xm_hello_context context = peer_of(conn);
	struct xm_session *s = NULL;
	char text[XM_WIRE_TEXT] = "";
	uint32_t seq = c->in.h.seq;
	int ret;

	if (c->in.u.hello.magic != XM_WIRE_MAGIC) {
		dismiss(c, conn, -EPROTO, "a stranger does not speak this protocol");
		return;
	}
	if (c->in.u.hello.link && given_up(conn)) {
		xm_ctl_kill(c, conn);
		return;
	}
	ret = check_hello(c, conn, text);
	if (ret == 0)
		ret = xm_session_enter(c->a, &c->in.u.hello, &context, &s, text);
	c->out.h = (struct xm_wire_header){ .type = XM_WIRE_HELLO, .flags = XM_WIRE_REPLY, .seq = seq };
	if (ret < 0) {
		xm_request_refuse(&c->out, ret, text, 0);
		conn->closing = true;
		if (xm_ctl_may_complain(c))
			xm_warn("hello refused (%s): %s", conn->local ? "shm" : "tcp", text);
		xm_ctl_reply(c, conn, &c->out, NULL);
	} else {
		answer_hello(c, conn, s);
	}
}

static void send_answer(struct xm_ctl *c, struct conn *conn, struct xm_request *r)
{
	if (conn)
		xm_ctl_reply(c, conn, r->out, r);
	xm_request_done(r);
}

static struct xm_request request_of(struct xm_ctl *c, const struct conn *conn, const struct xm_wire_msg *in,
				    struct xm_wire_msg *out)
{
	return (struct xm_request){ .a = c->a, .session = conn->session, .peer = peer_of(conn), .minor = conn->minor,
				    .in = in, .out = out };
}

/* A request that may have a rest, which is then a job. 0; -ENOMEM */
static int begin_long(struct xm_ctl *c, struct conn *conn)
{
	struct xm_job *job = malloc(sizeof(*job));

	if (!job)
		return -ENOMEM;
	job->in = c->in;
	job->request = request_of(c, conn, &job->in, &job->out);
	if (xm_request_answer(&job->request)) {
		send_answer(c, conn, &job->request);
		free(job);
		return 0;
	}
	job->owner = conn;
	conn->job = job;
	conn->session->working = true;
	xm_jobs_start(c->jobs, job);
	return 0;
}

static void handle_request(struct xm_ctl *c, struct conn *conn)
{
	struct xm_request r = request_of(c, conn, &c->in, &c->out);

	if (xm_request_is_long(c->in.h.type) && begin_long(c, conn) == 0)
		return;
	if (!xm_request_answer(&r))
		xm_request_rest(&r); /* no memory for a job: everybody waits */
	conn->bye = conn->bye || r.bye;
	send_answer(c, conn, &r);
}

void xm_ctl_leave_line(struct conn *conn)
{
	conn->session->waiting -= conn->waiting != 0;
	conn->waiting = 0;
}

/* Those of the session that wait, the first one first, until one of them has a job. */
static void let_next(struct xm_ctl *c, struct xm_session *s)
{
	while (!s->working && s->waiting) {
		struct conn *next = NULL;

		for (struct conn *o = c->conns; o; o = o->next)
			if (o->waiting && o->session == s && (!next || o->waiting < next->waiting))
				next = o;
		xm_assert(next);
		xm_ctl_serve(c, next);
		xm_ctl_settle(c, next);
	}
}

static void tell_slow(struct xm_ctl *c, const struct xm_job *job)
{
	uint64_t second = xm_now_ns() / 1000000000ull;

	if (job->took_ns < SLOW_NS || second == c->slow_second)
		return;
	c->slow_second = second;
	xm_warn("%s took %llu ms, and its client waited (a slow RDMA device, or too little memory or processor on this host?)",
		xm_request_name(job->in.h.type), (unsigned long long)(job->took_ns / 1000000));
}

void xm_ctl_finish_jobs(struct xm_ctl *c, bool wait)
{
	struct xm_job *job;

	while ((job = xm_jobs_done(c->jobs, wait))) {
		struct xm_session *s = job->request.session; /* is not over while this was under way (session.c) */
		struct conn *conn = job->owner;

		tell_slow(c, job);
		s->working = false;
		if (conn)
			conn->job = NULL;
		send_answer(c, conn, &job->request);
		free(job);
		let_next(c, s);
		if (!conn)
			continue;
		conn->more = !conn->dead && conn->rx_len; /* it may have asked for more: that has a turn too */
		xm_ctl_settle(c, conn);
	}
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
static int message_length(const struct conn *conn, uint16_t *type)
{
	struct xm_wire_header h;
	int ret = xm_wire_decode_header(conn->rx, conn->rx_len, &h);

	if (ret == -EAGAIN)
		return 0;
	if (ret < 0 || (!conn->session && h.length > XM_WIRE_HELLO_MAX))
		return -EPROTO;
	*type = h.type;
	return (int)h.length;
}

void xm_ctl_serve(struct xm_ctl *c, struct conn *conn)
{
	uint64_t began = xm_now_ns(), ticket = conn->waiting;
	bool first = true;

	conn->round = c->round;
	conn->more = false;
	if (ticket)
		xm_ctl_leave_line(conn);
	while (!conn->dead && !conn->tx && !conn->closing && !conn->handover && !conn->job) {
		uint16_t type;
		int len = message_length(conn, &type);

		if (len < 0) {
			dismiss(c, conn, -EPROTO, "malformed message");
			break;
		}
		if (!len || conn->rx_len < (uint32_t)len)
			break;
		if (conn->session && conn->session->working && xm_request_is_long(type)) {
			conn->waiting = ticket ? ticket : ++c->tickets;
			conn->session->waiting++;
			break;
		}
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

