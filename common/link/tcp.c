/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp.c - links to an appliance over TCP: requests and responses as in man 7 xmem-protocol.
 *
 *   submit -> slot (cookie, buffer) + bytes in the send buffer -> socket ... socket -> response -> slot -> done
 *
 * What is written is copied into the send buffer by the kernel at submission (process_vm_readv on
 * ourselves): memory that went away is then an error of that operation alone, found before a byte of it was
 * sent, and the stream stays in frame. The price is one copy, small beside the socket's own.
 * The send buffer is sized for the worst case that the contract allows, as address space; only what
 * is in flight at once is ever touched, and a large burst is given back.
 *
 * One thread at a time per link. Takes the peer's mutex only to reconnect. Allocates nothing after open.
 * A dead connection completes what is in flight with -ENOLINK; it comes back only by reconnect. One that owes
 * answers and moves no byte for half of lost_timeout is dead, so that a stopped appliance or a lost host is an
 * error in time. What it carried may still arrive there: the link's id in the hello of the next connection makes
 * the appliance take down the former one first, so that nothing old is applied after what is repeated here.
 */
#include "link/peer_impl.h"

#include "backoff.h"
#include "sys.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define SEND_BYTES ((size_t)XM_LINK_DEPTH * (XM_LINK_OP_MAX + XM_WIRE_REQUEST))
#define SEND_EAGER (256u << 10) /* queued bytes that are sent without waiting for flush */
#define SEND_KEEP (1u << 20)	/* touched send buffer that is kept after a burst */
#define RECV_BYTES (64u << 10)
#define SILENCE_NS_MIN 50000000ull /* a busy appliance may need as long to make a slab */

struct slot {
	uint64_t cookie;
	uint8_t *dst; /* reads */
	uint32_t len;
	uint32_t generation; /* so that an answer to an earlier use is recognised */
	uint8_t op;	     /* 0: free */
};

struct tcp_link {
	struct xm_link link;
	int fd;	     /* -1: dead */
	uint64_t id; /* random; by it the appliance knows which connection a new one replaces */
	unsigned in_flight;
	bool asked; /* just now: no answer can be there yet, looking for it would be a system call for nothing */
	uint64_t moved_ns;	  /* when bytes last went either way, or the first operation was queued */
	uint64_t silent_since_ns; /* the connection was given up because nothing moved since; 0: it was not */
	struct slot slot[XM_LINK_DEPTH];
	struct xm_done done;
	struct xm_link_stats stats;

	uint8_t *send;	     /* SEND_BYTES */
	size_t sent, queued; /* send[sent, queued) waits for the socket */
	size_t send_high;    /* touched since the last trim */

	struct slot *filling; /* read whose payload is arriving */
	uint32_t filled;
	uint32_t recv_at, recv_len; /* recv[recv_at, recv_len) is not parsed yet */
	uint8_t recv[RECV_BYTES];
};

static struct tcp_link *tcp_of(struct xm_link *l)
{
	return xm_container_of(l, struct tcp_link, link);
}

static void complete(struct tcp_link *t, uint64_t cookie, int status, uint32_t bytes, uint64_t value)
{
	xm_done_put(&t->done, &t->stats,
		    (struct xm_completion){ .cookie = cookie, .status = status, .bytes = bytes, .value = value });
}

static void finish(struct tcp_link *t, struct slot *s, int status, uint64_t value)
{
	s->op = 0;
	s->generation++;
	t->in_flight--;
	complete(t, s->cookie, status, s->len, value);
}

static void die(struct tcp_link *t)
{
	if (t->fd >= 0)
		xm_sys_close(t->fd);
	t->fd = -1;
	t->filling = NULL;
	t->recv_at = t->recv_len = 0;
	t->sent = t->queued = 0;
	for (unsigned i = 0; i < XM_LINK_DEPTH; i++)
		if (t->slot[i].op)
			finish(t, &t->slot[i], -ENOLINK, 0);
}

/* ---- sending ------------------------------------------------------------------------------------------ */

static void trim_send(struct tcp_link *t)
{
	t->sent = t->queued = 0;
	if (t->send_high <= SEND_KEEP)
		return;
	xm_sys_madvise(t->send + SEND_KEEP, SEND_BYTES - SEND_KEEP, MADV_DONTNEED);
	t->send_high = 0;
}

static void push(struct tcp_link *t)
{
	while (t->fd >= 0 && t->sent < t->queued) {
		ssize_t n = xm_sys_send(t->fd, t->send + t->sent, t->queued - t->sent,
					MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			die(t);
			return;
		}
		t->sent += (size_t)n;
		t->asked = true;
		t->moved_ns = xm_now_ns();
	}
	if (t->queued)
		trim_send(t);
}

/* Room for one request. What waits fits in whatever order it came, so moving it to the front is enough. */
static uint8_t *send_room(struct tcp_link *t, size_t bytes)
{
	uint8_t *at;

	if (SEND_BYTES - t->queued < bytes) {
		memmove(t->send, t->send + t->sent, t->queued - t->sent);
		t->queued -= t->sent;
		t->sent = 0;
	}
	at = t->send + t->queued;
	t->send_high = xm_max(t->send_high, t->queued + bytes);
	return at;
}

static int admit(struct tcp_link *t, uint64_t len)
{
	if (!len || len > XM_LINK_OP_MAX)
		return -EINVAL;
	if (t->fd < 0 || xm_peer_state(t->link.peer) < 0)
		return -ENOLINK;
	return t->in_flight + t->done.count < XM_LINK_DEPTH ? 0 : -EAGAIN;
}

static struct slot *take_slot(struct tcp_link *t, unsigned *index)
{
	for (unsigned i = 0; i < XM_LINK_DEPTH; i++) {
		if (t->slot[i].op)
			continue;
		*index = i;
		return &t->slot[i];
	}
	return NULL; /* admit() has made sure that there is one */
}

/* Queues a request whose payload, if any, already stands behind the header's place. */
static void enqueue(struct tcp_link *t, struct xm_wire_request *r, size_t payload, void *dst, uint64_t cookie)
{
	unsigned index = 0;
	struct slot *s = take_slot(t, &index);

	s->op = r->op;
	s->cookie = cookie;
	s->dst = dst;
	s->len = r->op == XM_WIRE_CAS || r->op == XM_WIRE_FAA ? 8 : r->len;
	r->cookie = (uint64_t)s->generation << 8 | index;
	_Static_assert(XM_LINK_DEPTH <= 256, "index fits eight bits of the cookie");
	xm_wire_put_request(send_room(t, XM_WIRE_REQUEST + payload), r);
	t->queued += XM_WIRE_REQUEST + payload;
	if (!t->in_flight++)
		t->moved_ns = xm_now_ns();
	if (t->queued - t->sent >= SEND_EAGER)
		push(t);
}

static int tcp_read(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off, uint64_t cookie)
{
	struct tcp_link *t = tcp_of(l);
	struct xm_wire_request r = {
		.op = XM_WIRE_READ, .len = (uint32_t)len, .region = region, .offset = off
	};
	int ret = admit(t, len);

	if (ret < 0)
		return ret;
	t->stats.reads++;
	t->stats.read_bytes += len;
	enqueue(t, &r, 0, dst, cookie);
	return 0;
}

static int tcp_writev(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
		      uint64_t cookie)
{
	struct tcp_link *t = tcp_of(l);
	struct xm_wire_request r = { .op = XM_WIRE_WRITE, .region = region, .offset = off };
	struct iovec to;
	uint64_t len;
	int ret;

	if (n < 1 || n > XM_LINK_IOV_MAX)
		return -EINVAL;
	len = xm_iov_bytes(iov, n);
	ret = admit(t, len);
	if (ret < 0)
		return ret;
	t->stats.writes++;
	t->stats.write_bytes += len;
	r.len = (uint32_t)len;
	to.iov_base = send_room(t, XM_WIRE_REQUEST + len) + XM_WIRE_REQUEST;
	to.iov_len = len;
	if (xm_sys_vm_readv(&to, 1, iov, (unsigned)n) != (ssize_t)len) {
		complete(t, cookie, -EFAULT, 0, 0);
		return 0;
	}
	enqueue(t, &r, len, NULL, cookie);
	return 0;
}

static int tcp_atomic(struct tcp_link *t, struct xm_wire_request *r, const uint64_t *words, uint64_t cookie)
{
	int ret = admit(t, r->len);
	uint8_t *payload;

	if (ret < 0)
		return ret;
	t->stats.atomics++;
	payload = send_room(t, XM_WIRE_REQUEST + r->len) + XM_WIRE_REQUEST;
	for (unsigned i = 0; i < r->len / 8; i++)
		xm_wire_put_u64(payload + (size_t)i * 8, words[i]);
	enqueue(t, r, r->len, NULL, cookie);
	return 0;
}

static int tcp_cas(struct xm_link *l, uint64_t region, uint64_t off, uint64_t expect, uint64_t desired,
		   uint64_t cookie)
{
	struct xm_wire_request r = { .op = XM_WIRE_CAS, .len = 16, .region = region, .offset = off };
	uint64_t words[2] = { expect, desired };

	return tcp_atomic(tcp_of(l), &r, words, cookie);
}

static int tcp_faa(struct xm_link *l, uint64_t region, uint64_t off, uint64_t add, uint64_t cookie)
{
	struct xm_wire_request r = { .op = XM_WIRE_FAA, .len = 8, .region = region, .offset = off };

	return tcp_atomic(tcp_of(l), &r, &add, cookie);
}

/* ---- receiving ---------------------------------------------------------------------------------------- */

static int known_status(int status)
{
	switch (status) {
	case 0:
	case -ENXIO:
	case -EACCES:
	case -EINVAL:
	case -EIO:
	case -ENOMEM: return status;
	default: return -EIO;
	}
}

/* 0, or -EPROTO: the answer belongs to nothing that was asked. */
static int begin_response(struct tcp_link *t, const struct xm_wire_response *r)
{
	uint64_t index = r->cookie & 0xff;
	struct slot *s;
	int status = known_status(r->status);

	if (index >= XM_LINK_DEPTH)
		return -EPROTO;
	s = &t->slot[index];
	if (!s->op || r->cookie >> 8 != s->generation)
		return -EPROTO;
	if (s->op == XM_WIRE_READ && status == 0) {
		if (r->len != s->len)
			return -EPROTO;
		t->filling = s;
		t->filled = 0;
		return 0;
	}
	if (r->len)
		return -EPROTO;
	finish(t, s, status, r->value);
	return 0;
}

static void took_payload(struct tcp_link *t, uint32_t n)
{
	t->filled += n;
	if (t->filled < t->filling->len)
		return;
	finish(t, t->filling, 0, 0);
	t->filling = NULL;
}

static int parse(struct tcp_link *t)
{
	for (;;) {
		uint32_t have = t->recv_len - t->recv_at;
		struct xm_wire_response r;
		int ret;

		if (t->filling) {
			uint32_t n = xm_min(have, t->filling->len - t->filled);

			if (!n)
				return 0;
			memcpy(t->filling->dst + t->filled, t->recv + t->recv_at, n);
			t->recv_at += n;
			took_payload(t, n);
			continue;
		}
		if (have < XM_WIRE_RESPONSE)
			return 0;
		xm_wire_get_response(t->recv + t->recv_at, &r);
		t->recv_at += XM_WIRE_RESPONSE;
		ret = begin_response(t, &r);
		if (ret < 0)
			return ret;
	}
}

/* One receive: the rest of a payload goes straight to its place, what follows into the buffer. */
static ssize_t receive(struct tcp_link *t)
{
	struct iovec iov[2];
	struct msghdr msg = { .msg_iov = iov };
	uint32_t rest = 0;
	ssize_t n;

	memmove(t->recv, t->recv + t->recv_at, t->recv_len - t->recv_at); /* part of a header at most */
	t->recv_len -= t->recv_at;
	t->recv_at = 0;
	if (t->filling) {
		rest = t->filling->len - t->filled;
		iov[msg.msg_iovlen++] = (struct iovec){ t->filling->dst + t->filled, rest };
	}
	iov[msg.msg_iovlen++] = (struct iovec){ t->recv + t->recv_len, RECV_BYTES - t->recv_len };
	n = xm_sys_recvmsg(t->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n <= 0)
		return n;
	t->moved_ns = xm_now_ns();
	if (rest) {
		uint32_t direct = (uint32_t)xm_min(n, (ssize_t)rest);

		took_payload(t, direct);
		t->recv_len += (uint32_t)n - direct;
	} else {
		t->recv_len += (uint32_t)n;
	}
	return n;
}

/* When an appliance that owes answers and moves nothing is given up: half of the time allowed is left for a new
 * connection. A stopped process answers no request, while its kernel keeps the connection up for ever. */
static uint64_t silence_end(const struct tcp_link *t)
{
	return t->moved_ns + xm_max(t->link.peer->lost_timeout_ns / 2, SILENCE_NS_MIN);
}

static void check_silence(struct tcp_link *t)
{
	if (!t->in_flight || xm_now_ns() < silence_end(t))
		return;
	t->silent_since_ns = t->moved_ns;
	die(t);
}

/* Moves bytes both ways without blocking, until something has completed or the socket has no more. */
static void pump(struct tcp_link *t)
{
	if (t->sent < t->queued)
		push(t);
	while (t->fd >= 0 && !t->done.count) {
		ssize_t n = receive(t);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			check_silence(t);
			return;
		}
		if (n <= 0 || parse(t) < 0)
			die(t);
	}
}

static int tcp_poll(struct xm_link *l, struct xm_completion *c, int n)
{
	struct tcp_link *t = tcp_of(l);

	if (t->sent < t->queued || (!t->done.count && t->in_flight && !t->asked))
		pump(t);
	t->asked = false;
	return xm_done_take(&t->done, &t->stats, c, n);
}

static int tcp_flush(struct xm_link *l)
{
	push(tcp_of(l));
	return 0;
}

static int tcp_wait(struct xm_link *l, uint64_t timeout_ns)
{
	struct tcp_link *t = tcp_of(l);
	uint64_t start = xm_now_ns();
	bool looked = !t->sent && !t->queued; /* poll() has, before it sent its caller here, or it is too early */

	for (;; looked = false) {
		struct pollfd pfd = { .fd = -1, .events = POLLIN };
		uint64_t spent, now, silent;

		if (!t->done.count && t->in_flight && !looked)
			pump(t);
		if (t->done.count)
			return 0;
		now = xm_now_ns();
		spent = now - start;
		if (!t->in_flight || spent >= timeout_ns)
			return -ETIMEDOUT;
		pfd.fd = t->fd;
		if (t->sent < t->queued)
			pfd.events |= POLLOUT;
		silent = silence_end(t);
		t->stats.sleeps++;
		xm_sys_poll(&pfd, 1, xm_min(timeout_ns - spent, silent > now ? silent - now : 0));
	}
}

/* ---- the connection ----------------------------------------------------------------------------------- */

/* A link with nothing in flight never reads its socket, so its end is looked for here. */
static int tcp_state(struct xm_link *l)
{
	struct tcp_link *t = tcp_of(l);
	uint8_t byte;

	if (t->fd >= 0 && !t->in_flight) {
		ssize_t n = xm_sys_recv(t->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

		if (n != -EAGAIN && n != -EINTR)
			die(t);
	}
	return t->fd < 0 ? -ENOLINK : xm_peer_state(l->peer);
}

static void tcp_stats(struct xm_link *l, struct xm_link_stats *out)
{
	*out = tcp_of(l)->stats;
}

static void tcp_close(struct xm_link *l)
{
	struct tcp_link *t = tcp_of(l);

	if (t->fd >= 0)
		xm_sys_close(t->fd);
	xm_link_release(t->send, SEND_BYTES);
	xm_link_release(t, sizeof(*t));
}

static void tcp_kill(struct xm_link *l)
{
	die(tcp_of(l));
}

/* A connection that died of silence has used up a part of the time allowed. */
static uint64_t reconnect_deadline(struct tcp_link *t)
{
	uint64_t lost = t->link.peer->lost_timeout_ns, deadline = xm_now_ns() + lost;

	if (t->silent_since_ns)
		deadline = xm_min(deadline, xm_max(t->silent_since_ns + lost, deadline - lost / 2));
	t->silent_since_ns = 0;
	return deadline;
}

static int tcp_reconnect(struct xm_link *l)
{
	struct tcp_link *t = tcp_of(l);
	struct xm_backoff b = { 0 };
	int ret, why = -ENOLINK;

	if (tcp_state(l) == 0)
		return 0;
	die(t);
	b.deadline_ns = reconnect_deadline(t);
	do {
		ret = xm_peer_connect_data(l->peer, t->id, b.deadline_ns, &t->fd);
		if (ret == 0) {
			t->stats.reconnects++;
			return 0;
		}
		if (ret == -EUSERS) /* the last attempt may have been too short to be told */
			why = ret;
	} while (xm_peer_state(l->peer) == 0 && xm_backoff(&b));
	return why;
}

static void *tcp_direct(struct xm_link *l, uint64_t region, uint64_t off, size_t len, bool writing)
{
	return NULL;
}

static const struct xm_link_ops tcp_ops = {
	.name = "tcp",
	.close = tcp_close,
	.direct = tcp_direct,
	.read = tcp_read,
	.writev = tcp_writev,
	.cas = tcp_cas,
	.faa = tcp_faa,
	.flush = tcp_flush,
	.poll = tcp_poll,
	.wait = tcp_wait,
	.state = tcp_state,
	.stats = tcp_stats,
	.forget = tcp_close,
	.reconnect = tcp_reconnect,
	.kill = tcp_kill,
};

int xm_tcp_link_open(struct xm_peer *p, struct xm_link **out)
{
	struct tcp_link *t = xm_link_alloc(sizeof(*t));
	int ret = -ENOMEM;

	if (!t)
		return ret;
	t->link.ops = &tcp_ops;
	t->link.peer = p;
	t->fd = -1;
	t->send = xm_link_alloc(SEND_BYTES);
	if (!t->send)
		goto release;
	t->id = xm_peer_random(p);
	ret = xm_peer_connect_data(p, t->id, UINT64_MAX, &t->fd);
	if (ret < 0)
		goto release;
	*out = &t->link;
	return 0;
release:
	tcp_close(&t->link);
	return ret;
}
