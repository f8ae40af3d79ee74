/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_tcp.c - the data thread: reads, writes and atomics of all tcp data connections, by one io_uring.
 *
 *   socket --recv--> requests --> responses (a ring per connection) --sendmsg--> socket
 *                       \-- payload of writes straight into slabs       \-- payload of reads straight from slabs
 *
 * Per connection at most one receive and one send are under way. Each request is looked up in the registry,
 * which checks rights and range and gives references to the slabs; the references are held until the last
 * byte has moved, so a slab that is freed meanwhile lives as long as the kernel still copies. When a
 * connection's ring of responses is full, it is not received from: a peer that does not read is not served.
 *
 * A session that also uses shared memory can truncate its own slabs under us, and so does the appliance with slabs of a
 * shared region that its owner frees: copies made by the kernel then
 * fail (the connection ends); those made here are guarded against SIGBUS and answer -EIO, or -ENXIO what was freed.
 *
 * A connection that takes the place of another one of its link (same session, same link id) is answered only when
 * that one is gone, its last receive into a slab completed: so nothing that the client has given up is written
 * after what it repeats. Until then it is `fenced`: nothing is under way on it, and `recv` holds the answer.
 *
 * One thread; takes the registry's mutex for lookups, `inbox_mutex` to receive connections.
 */
#include "appliance/serve.h"

#include "appliance/request.h"
#include "link/link.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <liburing.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING_ENTRIES 512
#define RECV_BYTES (64u << 10)
#define RESPONSES 64u /* of one connection, not sent yet */

#define FENCE_NS 2000000000ull /* then the client is told to try again; it waits for 5 s */
#define TICK_NS 100000000

enum op_kind { OP_WAKE, OP_TICK, OP_RECV, OP_SEND };

struct op {
	enum op_kind kind;
	struct data_conn *conn;
};

struct response {
	uint8_t head[XM_WIRE_RESPONSE];
	struct xm_segment seg[XM_SEGMENTS];
	int segs;
};

struct data_conn {
	int fd;
	struct xm_session *session;
	uint64_t link;				  /* 0: not told */
	uint64_t fence_until_ns;		  /* 0: not fenced */
	bool receiving, sending, broken, starved; /* starved: parsing stopped for want of bytes */
	struct op recv_op, send_op;

	/* the request whose payload is arriving */
	bool in_request;
	struct xm_wire_request request;
	struct xm_segment seg[XM_SEGMENTS];
	int segs, status;
	uint32_t got;
	uint8_t words[16]; /* operands of atomics */

	struct response response[RESPONSES];
	unsigned first, waiting;
	uint64_t sent; /* bytes of the first waiting response */

	struct msghdr send_msg, recv_msg;
	struct iovec send_iov[RESPONSES * (1 + XM_SEGMENTS)];
	struct iovec recv_iov[XM_SEGMENTS + 1];
	uint32_t recv_at, recv_len;
	struct data_conn *next, *prev;
	uint8_t recv[RECV_BYTES];
};

struct xm_data {
	struct xm_appliance *a;
	struct io_uring ring;
	pthread_t thread;
	sem_t ready;
	int start_error;
	int wake_fd;
	uint64_t wake_count;
	struct op wake_op, tick_op;
	struct __kernel_timespec tick;
	bool ticking;
	unsigned fenced;
	struct xm_wire_msg msg;
	struct data_conn conns;	     /* list head */
	pthread_mutex_t inbox_mutex; /* inbox, stopping */
	struct data_conn *inbox, **inbox_end;
	bool stopping;
};

/* ---- guarded access ----------------------------------------------------------------------------------- */

static __thread sigjmp_buf *guard;

static void on_sigbus(int sig)
{
	if (guard)
		siglongjmp(*guard, 1);
	signal(SIGBUS, SIG_DFL);
	raise(SIGBUS);
}

static void install_guard(void)
{
	struct sigaction sa = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGBUS, &sa, NULL);
}

/* Between fences: that a copy is by no means able to read `guard` would be reason enough to leave the store out. */
static void set_guard(sigjmp_buf *env)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	guard = env;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static int guarded_copy(void *to, const void *from, size_t len)
{
	sigjmp_buf env;

	if (sigsetjmp(env, 0)) {
		set_guard(NULL);
		return -EIO;
	}
	set_guard(&env);
	memcpy(to, from, len);
	set_guard(NULL);
	return 0;
}

static int guarded_atomic(uint8_t op, uint64_t *word, const uint8_t words[16], uint64_t *before)
{
	uint64_t first = xm_wire_get_u64(words);
	sigjmp_buf env;

	if (sigsetjmp(env, 0)) {
		set_guard(NULL);
		return -EIO;
	}
	set_guard(&env);
	if (op == XM_WIRE_FAA)
		first = __atomic_fetch_add(word, first, __ATOMIC_SEQ_CST);
	else
		__atomic_compare_exchange_n(word, &first, xm_wire_get_u64(words + 8), 0, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
	set_guard(NULL);
	*before = first;
	return 0;
}

/* ---- requests ----------------------------------------------------------------------------------------- */

static void put_segments(struct xm_data *d, struct xm_segment *seg, int *segs)
{
	for (int i = 0; i < *segs; i++)
		xm_slab_put(&d->a->pool, seg[i].slab, false);
	*segs = 0;
}

static struct response *respond(struct xm_data *d, struct data_conn *c, int status, uint32_t len,
				uint64_t value)
{
	struct response *r = &c->response[(c->first + c->waiting++) % RESPONSES];
	struct xm_wire_response w = {
		.status = status, .len = len, .cookie = c->request.cookie, .value = value
	};

	if (status < 0)
		xm_add(&d->a->refused, 1);
	r->segs = 0;
	xm_wire_put_response(r->head, &w);
	return r;
}

static void count(struct xm_data *d, struct data_conn *c)
{
	switch (c->request.op) {
	case XM_WIRE_READ:
		xm_add(&d->a->reads, 1);
		xm_add(&d->a->read_bytes, c->request.len);
		xm_add(&c->session->read_bytes, c->request.len);
		break;
	case XM_WIRE_WRITE:
		xm_add(&d->a->writes, 1);
		xm_add(&d->a->write_bytes, c->request.len);
		xm_add(&c->session->write_bytes, c->request.len);
		break;
	default: xm_add(&d->a->atomics, 1);
	}
}

static bool well_formed(const struct xm_wire_request *r)
{
	if (r->flags)
		return false;
	switch (r->op) {
	case XM_WIRE_READ:
	case XM_WIRE_WRITE: return r->len > 0 && r->len <= XM_LINK_OP_MAX;
	case XM_WIRE_CAS: return r->len == 16;
	case XM_WIRE_FAA: return r->len == 8;
	default: return false;
	}
}

/* The memory that the request is about, if the session may do that to it. As xm_lend_locate(); -EINVAL not aligned. */
static int locate(struct xm_data *d, struct data_conn *c)
{
	const struct xm_wire_request *r = &c->request;
	bool atomic = r->op == XM_WIRE_CAS || r->op == XM_WIRE_FAA;
	struct xm_extent e = { .region = r->region,
			       .off = r->offset,
			       .len = atomic ? 8 : r->len,
			       .right = r->op == XM_WIRE_READ ? XM_ACCESS_DATA_READ : XM_ACCESS_DATA_WRITE };

	return atomic && (r->offset & 7) ? -EINVAL : xm_lend_locate(d->a, c->session, &e, c->seg);
}

/* A header has come. False: nonsense, after which no byte of the stream can be trusted. */
static bool begin_request(struct xm_data *d, struct data_conn *c, const uint8_t *bytes)
{
	struct xm_wire_request *r = &c->request;
	int segs;

	xm_wire_get_request(bytes, r);
	if (!well_formed(r))
		return false;
	segs = locate(d, c);
	c->status = xm_min(segs, 0);
	c->segs = xm_max(segs, 0);
	c->got = 0;
	if (segs > 0)
		count(d, c);
	if (r->op != XM_WIRE_READ) {
		c->in_request = true;
		return true;
	}
	if (c->status < 0) {
		respond(d, c, c->status, 0, 0);
	} else {
		struct response *out = respond(d, c, 0, r->len, 0);

		memcpy(out->seg, c->seg, sizeof(out->seg));
		out->segs = c->segs; /* the references go along */
		c->segs = 0;
	}
	return true;
}

/* The whole payload is here. */
static void end_request(struct xm_data *d, struct data_conn *c)
{
	uint64_t before = 0;

	if (c->status == 0 && c->request.op != XM_WIRE_WRITE)
		c->status = guarded_atomic(c->request.op, (uint64_t *)(void *)c->seg[0].addr, c->words,
					   &before);
	put_segments(d, c->seg, &c->segs);
	if (c->status == -EIO) { /* the memory went away: freed since, which another look shows, or cut by a client */
		int segs = locate(d, c);

		c->segs = xm_max(segs, 0);
		c->status = segs < 0 ? segs : -EIO;
		put_segments(d, c->seg, &c->segs);
	}
	respond(d, c, c->status, 0, before);
	c->in_request = false;
}

/* Where payload byte `got` belongs, and how many may follow it there. */
static uint8_t *payload_place(struct data_conn *c, uint32_t *room)
{
	uint32_t at = c->got;

	for (int i = 0; i < c->segs; i++) {
		if (at < c->seg[i].len) {
			*room = c->seg[i].len - at;
			return c->seg[i].addr + at;
		}
		at -= c->seg[i].len;
	}
	*room = 0;
	return NULL;
}

/* Takes payload from the receive buffer. */
static void take_payload(struct data_conn *c, const uint8_t *bytes, uint32_t n)
{
	bool atomic = c->request.op != XM_WIRE_WRITE;

	while (n) {
		uint32_t part = n, room;
		uint8_t *to;

		if (atomic) {
			memcpy(c->words + c->got, bytes, n);
		} else if (c->status == 0) {
			to = payload_place(c, &room);
			part = xm_min(n, room);
			c->status = guarded_copy(to, bytes, part);
		}
		c->got += part;
		bytes += part;
		n -= part;
	}
}

/* Works through what was received, as far as bytes and room for responses go. False: nonsense. */
static bool parse(struct xm_data *d, struct data_conn *c)
{
	c->starved = false;
	while (c->waiting < RESPONSES) {
		uint32_t have = c->recv_len - c->recv_at;

		if (c->in_request) {
			uint32_t n = xm_min(have, c->request.len - c->got);

			take_payload(c, c->recv + c->recv_at, n);
			c->recv_at += n;
			if (c->got < c->request.len)
				break;
			end_request(d, c);
			continue;
		}
		if (have < XM_WIRE_REQUEST)
			break;
		c->recv_at += XM_WIRE_REQUEST;
		if (!begin_request(d, c, c->recv + c->recv_at - XM_WIRE_REQUEST))
			return false;
	}
	c->starved = c->waiting < RESPONSES;
	return true;
}

/* ---- sockets ------------------------------------------------------------------------------------------ */

static struct io_uring_sqe *get_sqe(struct xm_data *d)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&d->ring)))
		io_uring_submit(&d->ring);
	return sqe;
}

static void arm_recv(struct xm_data *d, struct data_conn *c)
{
	struct io_uring_sqe *sqe;
	uint32_t skip = c->got;
	int n = 0;

	memmove(c->recv, c->recv + c->recv_at, c->recv_len - c->recv_at); /* part of a header at most */
	c->recv_len -= c->recv_at;
	c->recv_at = 0;
	if (c->in_request && c->request.op == XM_WIRE_WRITE && c->status == 0) {
		for (int i = 0; i < c->segs; i++) {
			uint32_t done = xm_min(skip, c->seg[i].len);

			skip -= done;
			if (done == c->seg[i].len)
				continue;
			c->recv_iov[n].iov_base = c->seg[i].addr + done;
			c->recv_iov[n++].iov_len = c->seg[i].len - done;
		}
	}
	c->recv_iov[n].iov_base = c->recv + c->recv_len;
	c->recv_iov[n++].iov_len = RECV_BYTES - c->recv_len;
	c->recv_msg = (struct msghdr){ .msg_iov = c->recv_iov, .msg_iovlen = (size_t)n };
	sqe = get_sqe(d);
	io_uring_prep_recvmsg(sqe, c->fd, &c->recv_msg, MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, &c->recv_op);
	c->receiving = true;
}

static void arm_send(struct xm_data *d, struct data_conn *c)
{
	struct io_uring_sqe *sqe;
	uint64_t skip = c->sent;
	size_t n = 0;

	for (unsigned i = 0; i < c->waiting; i++) {
		struct response *r = &c->response[(c->first + i) % RESPONSES];

		for (int part = -1; part < r->segs; part++) {
			uint8_t *addr = part < 0 ? r->head : r->seg[part].addr;
			uint64_t len = part < 0 ? XM_WIRE_RESPONSE : r->seg[part].len;
			uint64_t done = xm_min(skip, len);

			skip -= done;
			if (done == len)
				continue;
			c->send_iov[n].iov_base = addr + done;
			c->send_iov[n++].iov_len = len - done;
		}
	}
	c->send_msg = (struct msghdr){ .msg_iov = c->send_iov, .msg_iovlen = n };
	sqe = get_sqe(d);
	io_uring_prep_sendmsg(sqe, c->fd, &c->send_msg, MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, &c->send_op);
	c->sending = true;
}

static void free_conn(struct xm_data *d, struct data_conn *c)
{
	put_segments(d, c->seg, &c->segs);
	for (unsigned i = 0; i < c->waiting; i++) {
		struct response *r = &c->response[(c->first + i) % RESPONSES];

		put_segments(d, r->seg, &r->segs);
	}
	c->prev->next = c->next;
	c->next->prev = c->prev;
	d->fenced -= c->fence_until_ns != 0;
	close(c->fd);
	xm_sub(&d->a->data_connections, 1);
	xm_session_leave(d->a, c->session, NULL, false);
	free(c);
}

/* Arms what can be armed; frees a broken connection once nothing is under way. */
static void proceed(struct xm_data *d, struct data_conn *c)
{
	if (c->broken) {
		if (!c->receiving && !c->sending)
			free_conn(d, c);
		return;
	}
	if (c->waiting && !c->sending)
		arm_send(d, c);
	if (c->starved && !c->receiving)
		arm_recv(d, c);
}

static void break_conn(struct data_conn *c)
{
	if (!c->broken)
		shutdown(c->fd, SHUT_RDWR); /* completes the other operation */
	c->broken = true;
}

static void received(struct xm_data *d, struct data_conn *c, int n)
{
	c->receiving = false;
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0) {
		break_conn(c);
		return;
	}
	/* the first pieces were the payload's own places, the last one the buffer */
	if (c->in_request && c->request.op == XM_WIRE_WRITE && c->status == 0) {
		uint32_t direct = xm_min((uint32_t)n, c->request.len - c->got);

		c->got += direct;
		n -= (int)direct;
	}
	c->recv_len += (uint32_t)n;
	if (!c->broken && !parse(d, c))
		break_conn(c);
}

static void sent(struct xm_data *d, struct data_conn *c, int n)
{
	bool was_full = c->waiting == RESPONSES;

	c->sending = false;
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0) {
		break_conn(c);
		return;
	}
	c->sent += (uint64_t)n;
	while (c->waiting) {
		struct response *r = &c->response[c->first];
		uint64_t len = XM_WIRE_RESPONSE;

		for (int i = 0; i < r->segs; i++)
			len += r->seg[i].len;
		if (c->sent < len)
			break;
		c->sent -= len;
		put_segments(d, r->seg, &r->segs);
		c->first = (c->first + 1) % RESPONSES;
		c->waiting--;
	}
	if (was_full && !c->broken && !c->receiving && !parse(d, c))
		break_conn(c);
}

/* ---- fences ------------------------------------------------------------------------------------------- */

static bool same_link(const struct data_conn *c, const struct data_conn *o)
{
	return c != o && c->link && c->link == o->link && c->session == o->session;
}

/* Is there an older connection of c's link? Newer ones are not: they would have broken this one. */
static bool has_elder(const struct xm_data *d, const struct data_conn *c)
{
	for (const struct data_conn *o = d->conns.next; o != &d->conns; o = o->next)
		if (same_link(c, o))
			return true;
	return false;
}

static void arm_tick(struct xm_data *d)
{
	struct io_uring_sqe *sqe;

	if (d->ticking)
		return;
	d->ticking = true;
	d->tick = (struct __kernel_timespec){ .tv_nsec = TICK_NS };
	sqe = get_sqe(d);
	io_uring_prep_timeout(sqe, &d->tick, 0, 0);
	io_uring_sqe_set_data(sqe, &d->tick_op);
}

/* Sends the answer to hello, from recv, whose first use this is: a new connection has room for it. */
static void answer(struct xm_data *d, struct data_conn *c)
{
	ssize_t n = send(c->fd, c->recv, c->recv_len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n != (ssize_t)c->recv_len)
		break_conn(c);
	c->recv_len = 0;
}

static void refuse(struct xm_data *d, struct data_conn *c)
{
	int len;

	xm_wire_decode_header(c->recv, c->recv_len, &d->msg.h);
	xm_request_refuse(&d->msg, -EBUSY,
			  "the link's former connection is still being taken down, try again", 0);
	len = xm_wire_encode(&d->msg, c->recv, XM_WIRE_HELLO_MAX);
	xm_assert(len > 0);
	c->recv_len = (uint32_t)len;
	answer(d, c);
	break_conn(c);
}

/* Lets connections through whose elders are gone; at most XM_SESSION_DATA_MAX of one client can be here. */
static void look_at_fences(struct xm_data *d)
{
	uint64_t now = xm_now_ns();
	struct data_conn *c, *next;

	for (c = d->conns.next; c != &d->conns; c = next) {
		bool wait = c->fence_until_ns && has_elder(d, c);

		next = c->next;
		if (!c->fence_until_ns || c->broken || (wait && now < c->fence_until_ns))
			continue;
		c->fence_until_ns = 0;
		d->fenced--;
		c->starved = !wait;
		if (wait)
			refuse(d, c);
		else
			answer(d, c);
		proceed(d, c);
	}
	if (d->fenced)
		arm_tick(d);
}

/* A new connection. Its elders are broken here; the ones with nothing under way are gone at once. */
static void let_in(struct xm_data *d, struct data_conn *c)
{
	struct data_conn *next;

	for (struct data_conn *o = d->conns.next; c->link && o != &d->conns; o = next) {
		next = o->next;
		if (!same_link(c, o))
			continue;
		break_conn(o);
		proceed(d, o);
	}
	c->next = d->conns.next;
	c->prev = &d->conns;
	c->next->prev = c;
	d->conns.next = c;
	c->fence_until_ns = xm_now_ns() + FENCE_NS;
	d->fenced++;
}

/* ---- the thread --------------------------------------------------------------------------------------- */

static void arm_wake(struct xm_data *d)
{
	struct io_uring_sqe *sqe = get_sqe(d);

	io_uring_prep_read(sqe, d->wake_fd, &d->wake_count, sizeof(d->wake_count), 0);
	io_uring_sqe_set_data(sqe, &d->wake_op);
}

/* Takes in new connections; true: stop. */
static bool open_inbox(struct xm_data *d)
{
	struct data_conn *c;
	bool stop;

	pthread_mutex_lock(&d->inbox_mutex);
	c = d->inbox;
	d->inbox = NULL;
	d->inbox_end = &d->inbox;
	stop = d->stopping;
	pthread_mutex_unlock(&d->inbox_mutex);
	while (c) {
		struct data_conn *next = c->next;

		let_in(d, c);
		c = next;
	}
	return stop;
}

static void break_all(struct xm_data *d)
{
	struct data_conn *next;

	for (struct data_conn *c = d->conns.next; c != &d->conns; c = next) {
		next = c->next;
		break_conn(c);
		proceed(d, c);
	}
}

static int open_ring(struct xm_data *d)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
						   IORING_SETUP_CQSIZE,
					  .cq_entries = RING_ENTRIES * 8 };
	int ret = io_uring_queue_init_params(RING_ENTRIES, &d->ring, &params);

	if (ret != -EINVAL) /* before Linux 6.1 */
		return ret;
	return io_uring_queue_init(RING_ENTRIES, &d->ring, 0);
}

static bool complete(struct xm_data *d, const struct op *op, int res)
{
	bool stop = false;

	switch (op->kind) {
	case OP_WAKE:
		arm_wake(d);
		stop = open_inbox(d);
		if (stop)
			break_all(d);
		return stop;
	case OP_TICK: d->ticking = false; return false;
	case OP_RECV: received(d, op->conn, res); break;
	case OP_SEND: sent(d, op->conn, res); break;
	}
	proceed(d, op->conn);
	return stop;
}

static void *run(void *arg)
{
	struct xm_data *d = arg;
	bool stop = false;

	d->start_error = open_ring(d);
	sem_post(&d->ready);
	if (d->start_error < 0)
		return NULL;
	arm_wake(d);
	while (!stop || d->conns.next != &d->conns) {
		struct io_uring_cqe *cqe;
		unsigned head, seen = 0;

		io_uring_submit_and_wait(&d->ring, 1);
		io_uring_for_each_cqe(&d->ring, head, cqe)
		{
			struct op *op = io_uring_cqe_get_data(cqe);

			seen++;
			if (complete(d, op, cqe->res))
				stop = true;
		}
		io_uring_cq_advance(&d->ring, seen);
		if (d->fenced)
			look_at_fences(d);
	}
	io_uring_queue_exit(&d->ring);
	return NULL;
}

static void wake(struct xm_data *d)
{
	uint64_t one = 1;
	ssize_t n = write(d->wake_fd, &one, sizeof(one));

	(void)n;
}

int xm_data_create(struct xm_appliance *a, struct xm_data **out)
{
	struct xm_data *d = calloc(1, sizeof(*d));
	int ret = -ENOMEM;

	if (!d)
		return ret;
	d->a = a;
	d->conns.next = d->conns.prev = &d->conns;
	d->inbox_end = &d->inbox;
	d->wake_op.kind = OP_WAKE;
	d->tick_op.kind = OP_TICK;
	d->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (d->wake_fd < 0) {
		ret = -errno;
		goto free_data;
	}
	pthread_mutex_init(&d->inbox_mutex, NULL);
	sem_init(&d->ready, 0, 0);
	install_guard();
	ret = -pthread_create(&d->thread, NULL, run, d);
	if (ret < 0)
		goto close_wake;
	while (sem_wait(&d->ready) < 0)
		;
	ret = d->start_error;
	if (ret < 0)
		goto join;
	*out = d;
	return 0;
join:
	pthread_join(d->thread, NULL);
close_wake:
	close(d->wake_fd);
free_data:
	free(d);
	return ret;
}

void xm_data_destroy(struct xm_data *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&d->inbox_mutex);
	d->stopping = true;
	pthread_mutex_unlock(&d->inbox_mutex);
	wake(d);
	pthread_join(d->thread, NULL);
	close(d->wake_fd);
	pthread_mutex_destroy(&d->inbox_mutex);
	sem_destroy(&d->ready);
	free(d);
}

void xm_data_adopt(struct xm_data *d, int fd, struct xm_session *s, uint64_t link,
		   const struct xm_data_hello *hello)
{
	struct data_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		xm_session_leave(d->a, s, NULL, false);
		return;
	}
	c->fd = fd;
	c->session = s;
	c->link = link;
	c->recv_len = hello->len;
	memcpy(c->recv, hello->bytes, hello->len);
	c->recv_op = (struct op){ OP_RECV, c };
	c->send_op = (struct op){ OP_SEND, c };
	xm_add(&d->a->data_connections, 1);
	pthread_mutex_lock(&d->inbox_mutex);
	*d->inbox_end = c; /* in the order of their hellos: of two of one link the later one stays */
	d->inbox_end = &c->next;
	pthread_mutex_unlock(&d->inbox_mutex);
	wake(d);
}
