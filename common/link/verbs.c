/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs.c - links to an appliance by one-sided RDMA: reads, writes and atomics of its slabs, by their keys. No code
 * of the appliance runs for them.
 *
 *   submit -> op (accepted, in order) --flush, poll--> work requests, one doorbell for all that fit
 *        completion -> the op's work requests retired -> done -> poll
 *
 * A buffer that was lent is registered and used as it is. Others are copied: what is written, at submission (by the
 * kernel, so that memory that went away is an error of that operation alone) and then piecewise into staging, which is
 * registered; what is read, from staging at completion.
 *
 * Reads and atomics are signalled each, since somebody waits for each; of writes the last one of a doorbell is, and its
 * completion says that all before it are done (reliable connections complete in order).
 *
 * A slab that was freed, or a key that is not ours, is refused by the device at the other side: that operation answers
 * -ENXIO, and with it the connection has died, as the InfiniBand specification wants it (1.4, 9.9.2). The others come
 * back with -ENOLINK, and the link connects anew when it is used next.
 *
 * One thread at a time per link. Allocates nothing after open but in reconnect (the libraries do).
 */
#include "link/verbs_impl.h"

#include "log.h"
#include "backoff.h"
#include "sys.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define OPS (2 * XM_LINK_DEPTH) /* operations between the oldest that is not done and the newest */
#define POST_MAX 128		/* work requests of one doorbell: as many as the runtime asks for at once */
#define STAGING_BYTES ((size_t)XM_VERBS_BLOCKS * XM_VERBS_BLOCK)
#define SPILL_BYTES ((size_t)OPS * XM_LINK_OP_MAX) /* address space; touched where something was written */
#define SPILL_KEEP (16u << 10)			    /* of an operation; more is given back when it is done */
#define SPIN_NS 20000u /* some round trips of a fast network: sleeping costs more than that */
#define NO_BLOCK UINT16_MAX

enum kind { OP_READ, OP_WRITE, OP_CAS, OP_FAA };

struct op {
	uint64_t cookie, region, off;
	uint64_t expect, value; /* CAS: and the new value; FAA: the addend */
	uint8_t *local;		/* where to, or where from */
	uint32_t len, posted, moved;
	uint32_t spilt; /* bytes of spill at local, whatever becomes of the rest; 0: it is not there */
	int status; /* found while part of it was under way */
	enum kind kind;
	bool done;
};

struct request {
	struct op *op;
	struct xm_wire_key key; /* by which it went */
	uint32_t at, len; /* the part of op->local */
	uint16_t block;	  /* of staging, or NO_BLOCK */
};

struct lent {
	uint8_t *at;
	size_t len;
	struct ibv_mr *mr;
};

struct verbs_link {
	struct xm_link link;
	struct xm_verbs_conn conn; /* qp NULL: dead */
	struct xm_verbs_queues q;
	uint64_t id;
	uint32_t epoch; /* counts connections: a completion of an earlier one is recognised */
	unsigned in_flight;
	bool refused; /* the connection died of an operation that was not permitted, and only of that */

	uint32_t op_head, op_next, op_tail; /* [head, next) posted; [next, tail) waiting, the first perhaps posted in part */
	uint32_t req_head, req_tail;	    /* in the send queue */
	unsigned blocks_free;
	uint8_t *staging, *spill;
	struct ibv_mr *mr;
	struct lent lent[XM_VERBS_LENT];
	struct xm_link_stats stats;

	struct op op[OPS];
	struct request *req; /* of as many as the send queue takes */
	uint32_t depth;
	struct xm_done done;
	uint16_t block[XM_VERBS_BLOCKS]; /* free ones first */
	struct ibv_send_wr wr[POST_MAX];
	struct ibv_sge sge[POST_MAX];
};

static struct verbs_link *verbs_of(struct xm_link *l)
{
	return xm_container_of(l, struct verbs_link, link);
}

/* ---- operations --------------------------------------------------------------------------------------- */

static void complete(struct verbs_link *v, uint64_t cookie, int status, uint32_t bytes, uint64_t value)
{
	xm_done_put(&v->done, &v->stats,
		    (struct xm_completion){ .cookie = cookie, .status = status, .bytes = bytes, .value = value });
}

/* Room of the next operation for what it writes and was not lent. */
static uint8_t *spill_room(const struct verbs_link *v)
{
	return v->spill + (size_t)(v->op_tail % OPS) * XM_LINK_OP_MAX;
}

static void spill_done(const struct op *o)
{
	if (o->spilt > SPILL_KEEP)
		xm_sys_madvise(o->local, o->spilt, MADV_DONTNEED);
}

static void finish(struct verbs_link *v, struct op *o, int status)
{
	spill_done(o);
	o->done = true;
	v->in_flight--;
	complete(v, o->cookie, status, o->len, o->value);
	while (v->op_head != v->op_tail && v->op[v->op_head % OPS].done)
		v->op_head++;
}

static void free_block(struct verbs_link *v, uint16_t block)
{
	if (block != NO_BLOCK)
		v->block[v->blocks_free++] = block;
}

/* Only now, with the queue pair gone, is nothing of it under way to local memory. */
static void die(struct verbs_link *v)
{
	struct ibv_wc wc[32];

	xm_verbs_disconnect(&v->conn);
	/* not every device takes a dead queue pair's completions away; the queue has room for those of one */
	while (v->q.cq && ibv_poll_cq(v->q.cq, (int)XM_ARRAY_SIZE(wc), wc) > 0)
		;
	v->epoch++;
	for (; v->req_head != v->req_tail; v->req_head++)
		free_block(v, v->req[v->req_head % v->depth].block);
	for (uint32_t i = v->op_head, tail = v->op_tail; i != tail; i++)
		if (!v->op[i % OPS].done)
			finish(v, &v->op[i % OPS], -ENOLINK);
	v->op_head = v->op_next = v->op_tail;
}

/* Of a connection that died of a refusal nothing is lost but its queue pair. Bounded by connect_timeout. */
static void revive(struct verbs_link *v)
{
	struct xm_peer *p = v->link.peer;

	if (!v->refused)
		return;
	v->refused = false;
	if (!v->conn.qp && xm_peer_state(p) == 0 &&
	    xm_verbs_connect(p, v->id, xm_now_ns() + p->connect_timeout_ns, &v->conn, &v->q, NULL) == 0)
		v->stats.reconnects++;
}

static int admit(struct verbs_link *v, uint64_t len)
{
	if (!len || len > XM_LINK_OP_MAX)
		return -EINVAL;
	revive(v);
	if (!v->conn.qp || xm_peer_state(v->link.peer) < 0)
		return -ENOLINK;
	if (v->in_flight + v->done.count >= XM_LINK_DEPTH || v->op_tail - v->op_head >= OPS)
		return -EAGAIN;
	return 0;
}

static void accept_op(struct verbs_link *v, const struct op *o)
{
	v->op[v->op_tail++ % OPS] = *o;
	v->in_flight++;
}

static int verbs_read(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off, uint64_t cookie)
{
	struct verbs_link *v = verbs_of(l);
	struct op o = { .cookie = cookie, .region = region, .off = off, .local = dst, .len = (uint32_t)len };
	int ret = admit(v, len);

	if (ret < 0)
		return ret;
	v->stats.reads++;
	v->stats.read_bytes += len;
	accept_op(v, &o);
	return 0;
}

static struct ibv_mr *lent_to(const struct verbs_link *v, const uint8_t *at, size_t len)
{
	for (unsigned i = 0; i < XM_VERBS_LENT; i++) {
		const struct lent *b = &v->lent[i];

		if (b->mr && at >= b->at && len <= b->len && (size_t)(at - b->at) <= b->len - len)
			return b->mr;
	}
	return NULL;
}

static int verbs_writev(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
			uint64_t cookie)
{
	struct verbs_link *v = verbs_of(l);
	struct op o = { .cookie = cookie, .region = region, .off = off, .kind = OP_WRITE };
	struct iovec to;
	uint64_t len;
	int ret;

	if (n < 1 || n > XM_LINK_IOV_MAX)
		return -EINVAL;
	len = xm_iov_bytes(iov, n);
	ret = admit(v, len);
	if (ret < 0)
		return ret;
	o.len = (uint32_t)len;
	o.local = iov[0].iov_base;
	if (n > 1 || !lent_to(v, o.local, len)) {
		o.local = spill_room(v);
		o.spilt = o.len;
		to = (struct iovec){ o.local, len };
		if (xm_sys_vm_readv(&to, 1, iov, (unsigned)n) != (ssize_t)len) {
			spill_done(&o);
			complete(v, cookie, -EFAULT, 0, 0);
			return 0;
		}
	}
	v->stats.writes++;
	v->stats.write_bytes += len;
	accept_op(v, &o);
	return 0;
}

static int verbs_atomic(struct verbs_link *v, const struct op *o)
{
	int ret = admit(v, o->len);

	if (ret < 0)
		return ret;
	v->stats.atomics++;
	if (o->off % 8)
		complete(v, o->cookie, -EINVAL, 0, 0);
	else
		accept_op(v, o);
	return 0;
}

static int verbs_cas(struct xm_link *l, uint64_t region, uint64_t off, uint64_t expect, uint64_t desired,
		     uint64_t cookie)
{
	struct op o = { .cookie = cookie, .region = region, .off = off, .len = 8, .kind = OP_CAS, .expect = expect,
			.value = desired };

	return verbs_atomic(verbs_of(l), &o);
}

static int verbs_faa(struct xm_link *l, uint64_t region, uint64_t off, uint64_t add, uint64_t cookie)
{
	struct op o = { .cookie = cookie, .region = region, .off = off, .len = 8, .kind = OP_FAA, .value = add };

	return verbs_atomic(verbs_of(l), &o);
}

/* ---- posting ------------------------------------------------------------------------------------------ */

/* The rest of the operation will not be posted. What is under way of it comes back first. */
static void cut_short(struct verbs_link *v, struct op *o, int status)
{
	v->op_next++;
	o->status = status;
	o->len = o->posted;
	if (o->moved == o->len)
		finish(v, o, status);
}

/* The key of the slab at `off`; asks the appliance for one that is not known. */
static int key_of(struct verbs_link *v, const struct op *o, uint64_t off, struct xm_wire_key *key)
{
	struct xm_peer *p = v->link.peer;
	uint64_t slab = off >> p->slab_shift;
	int ret;

	if (!xm_peer_key(p, o->region, slab, key)) {
		ret = xm_peer_key_get(p, o->region, slab, key);
		if (ret < 0)
			return ret == -EAGAIN ? -ENOLINK : ret;
	}
	return key->rights & (o->kind == OP_READ ? XM_WIRE_RIGHT_READ : XM_WIRE_RIGHT_WRITE) ? 0 : -EACCES;
}

/* The key of the next part. Before the first one all are looked for, at most two: an operation of which a part is known
 * not to be present is not carried out at all. */
static int next_key(struct verbs_link *v, const struct op *o, struct xm_wire_key *key)
{
	uint64_t last = o->off + o->len - 1;
	int ret = last < o->off ? -ENXIO : 0; /* over the end of all numbers */

	_Static_assert(XM_LINK_OP_MAX <= 1u << 20, "slabs are at least as large");
	if (ret == 0 && !o->posted && last >> v->link.peer->slab_shift != o->off >> v->link.peer->slab_shift)
		ret = key_of(v, o, last, key);
	return ret < 0 ? ret : key_of(v, o, o->off + o->posted, key);
}

/* Local memory for the next part of the operation: its own, if it was lent, or a block of staging. false: none free. */
static bool find_memory(struct verbs_link *v, const struct op *o, struct request *r, struct ibv_sge *sge)
{
	bool atomic = o->kind == OP_CAS || o->kind == OP_FAA;
	struct ibv_mr *mr = atomic ? NULL : lent_to(v, o->local + o->posted, r->len);

	r->block = NO_BLOCK;
	if (mr) {
		*sge = (struct ibv_sge){ .addr = (uintptr_t)(o->local + o->posted), .length = r->len, .lkey = mr->lkey };
		return true;
	}
	if (!v->blocks_free)
		return false;
	r->block = v->block[--v->blocks_free];
	r->len = xm_min(r->len, XM_VERBS_BLOCK);
	*sge = (struct ibv_sge){ .addr = (uintptr_t)(v->staging + (size_t)r->block * XM_VERBS_BLOCK),
				 .length = r->len, .lkey = v->mr->lkey };
	if (o->kind == OP_WRITE)
		memcpy((void *)(uintptr_t)sge->addr, o->local + o->posted, r->len);
	return true;
}

static void describe(const struct verbs_link *v, const struct op *o, const struct xm_wire_key *key,
		     struct ibv_send_wr *w, struct ibv_sge *sge)
{
	static const enum ibv_wr_opcode opcode[] = { IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE, IBV_WR_ATOMIC_CMP_AND_SWP,
						     IBV_WR_ATOMIC_FETCH_AND_ADD };
	uint64_t slab_bytes = 1ull << v->link.peer->slab_shift;
	uint64_t addr = key->addr + ((o->off + o->posted) & (slab_bytes - 1));

	*w = (struct ibv_send_wr){
		.wr_id = (uint64_t)v->epoch << 32 | v->req_tail,
		.sg_list = sge,
		.num_sge = 1,
		.opcode = opcode[o->kind],
		.send_flags = o->kind == OP_WRITE ? 0 : IBV_SEND_SIGNALED,
	};
	if (o->kind == OP_WRITE && sge->length <= v->q.inline_bytes)
		w->send_flags |= IBV_SEND_INLINE;
	if (o->kind == OP_READ || o->kind == OP_WRITE) {
		w->wr.rdma.remote_addr = addr;
		w->wr.rdma.rkey = key->rkey;
	} else {
		w->wr.atomic.remote_addr = addr;
		w->wr.atomic.rkey = key->rkey;
		w->wr.atomic.compare_add = o->kind == OP_CAS ? o->expect : o->value;
		w->wr.atomic.swap = o->value;
	}
}

/* The next work request, if there is one to be posted, and room for it here and in the send queue. */
static bool next_request(struct verbs_link *v, struct ibv_send_wr *w, struct ibv_sge *sge)
{
	while (v->op_next != v->op_tail && v->req_tail - v->req_head < v->depth) {
		struct request *r = &v->req[v->req_tail % v->depth];
		struct op *o = &v->op[v->op_next % OPS];
		uint64_t slab_bytes = 1ull << v->link.peer->slab_shift, off = o->off + o->posted;
		struct xm_wire_key key;
		int ret = next_key(v, o, &key);

		if (ret < 0) {
			cut_short(v, o, ret);
			continue;
		}
		*r = (struct request){ .op = o, .key = key, .at = o->posted };
		r->len = (uint32_t)xm_min((uint64_t)(o->len - o->posted), slab_bytes - (off & (slab_bytes - 1)));
		if (!find_memory(v, o, r, sge))
			return false;
		describe(v, o, &key, w, sge);
		v->req_tail++;
		o->posted += r->len;
		if (o->posted == o->len)
			v->op_next++;
		return true;
	}
	return false;
}

/* Posts what waits: one doorbell for each POST_MAX work requests. */
static void post(struct verbs_link *v)
{
	int n = POST_MAX;

	while (v->conn.qp && n == POST_MAX) {
		struct ibv_send_wr *bad;

		for (n = 0; n < POST_MAX && next_request(v, &v->wr[n], &v->sge[n]); n++)
			if (n)
				v->wr[n - 1].next = &v->wr[n];
		if (!n)
			return;
		v->wr[n - 1].send_flags |= IBV_SEND_SIGNALED;
		v->stats.doorbells++;
		v->stats.work_requests += (unsigned)n;
		if (ibv_post_send(v->conn.qp, v->wr, &bad) != 0)
			die(v);
	}
}

/* ---- completions -------------------------------------------------------------------------------------- */

static void request_done(struct verbs_link *v)
{
	struct request *r = &v->req[v->req_head++ % v->depth];
	const uint8_t *from = v->staging + (size_t)r->block * XM_VERBS_BLOCK;
	struct op *o = r->op;

	if (r->block != NO_BLOCK && o->kind == OP_READ)
		memcpy(o->local + r->at, from, r->len);
	else if (o->kind != OP_READ && o->kind != OP_WRITE)
		memcpy(&o->value, from, sizeof(o->value));
	free_block(v, r->block);
	o->moved += r->len;
	if (o->moved == o->len && (o->posted == o->len))
		finish(v, o, o->status);
}

/* Refused there, or the connection broke. Either way the queue pair is of no more use. */
static void request_failed(struct verbs_link *v, enum ibv_wc_status status)
{
	const struct request *r = &v->req[v->req_head % v->depth];
	uint64_t slab;

	/* other errors of the responder pass with a new connection: all come back with -ENOLINK */
	if (status == IBV_WC_REM_ACCESS_ERR) {
		slab = (r->op->off + r->at) >> v->link.peer->slab_shift;
		finish(v, r->op, xm_peer_key_refused(v->link.peer, r->op->region, slab, &r->key));
		v->refused = true;
	}
	die(v);
}

/* Takes what has completed. */
static void drain(struct verbs_link *v)
{
	struct ibv_wc wc[32];
	int n;

	do {
		n = ibv_poll_cq(v->q.cq, (int)XM_ARRAY_SIZE(wc), wc);
		for (int i = 0; i < n; i++) {
			uint32_t last = (uint32_t)wc[i].wr_id;

			if (wc[i].wr_id >> 32 != v->epoch)
				continue; /* of a connection that was given up */
			while (v->req_head != last)
				request_done(v);
			if (wc[i].status == IBV_WC_SUCCESS)
				request_done(v);
			else
				request_failed(v, wc[i].status);
		}
	} while (n == (int)XM_ARRAY_SIZE(wc));
	if (n < 0) /* the completion queue itself has failed */
		die(v);
}

static void progress(struct verbs_link *v)
{
	if (v->req_head != v->req_tail)
		drain(v);
	if (v->op_next != v->op_tail)
		post(v);
}

static int verbs_poll(struct xm_link *l, struct xm_completion *c, int n)
{
	struct verbs_link *v = verbs_of(l);

	progress(v);
	return xm_done_take(&v->done, &v->stats, c, n);
}

static int verbs_flush(struct xm_link *l)
{
	post(verbs_of(l));
	return 0;
}

/* Until the device or the connection manager has something to say. */
static void sleep_on(struct verbs_link *v, uint64_t timeout_ns)
{
	struct pollfd pfd[2] = { { .fd = v->q.channel->fd, .events = POLLIN },
				 { .fd = v->conn.events->fd, .events = POLLIN } };
	struct ibv_cq *cq;
	unsigned events = 0;
	void *context;

	v->stats.sleeps++;
	xm_sys_poll(pfd, 2, timeout_ns);
	while (pfd[0].revents && xm_rdma.get_cq_event(v->q.channel, &cq, &context) == 0)
		events++;
	if (events)
		xm_rdma.ack_cq_events(v->q.cq, events);
	if (pfd[1].revents && xm_verbs_conn_ended(&v->conn)) {
		drain(v); /* what was answered before the end */
		die(v);
	}
}

static int verbs_wait(struct xm_link *l, uint64_t timeout_ns)
{
	struct verbs_link *v = verbs_of(l);
	uint64_t start = xm_now_ns();
	bool armed = false;

	for (;;) {
		uint64_t spent;

		progress(v);
		if (v->done.count)
			return 0;
		spent = xm_now_ns() - start;
		if (!v->in_flight || spent >= timeout_ns)
			return -ETIMEDOUT;
		if (spent < SPIN_NS) {
			xm_cpu_relax();
		} else if (!armed) {
			/* what completes from here on wakes us; what has already, the next round sees */
			armed = ibv_req_notify_cq(v->q.cq, 0) == 0;
			if (!armed)
				die(v);
		} else {
			sleep_on(v, timeout_ns - spent);
			armed = false;
		}
	}
}

/* ---- the link ----------------------------------------------------------------------------------------- */

static int verbs_state(struct xm_link *l)
{
	struct verbs_link *v = verbs_of(l);

	revive(v);
	if (v->conn.qp && !v->in_flight && xm_verbs_conn_ended(&v->conn))
		die(v);
	return v->conn.qp ? xm_peer_state(l->peer) : -ENOLINK;
}

static void verbs_stats(struct xm_link *l, struct xm_link_stats *out)
{
	*out = verbs_of(l)->stats;
}

static void release(struct verbs_link *v)
{
	xm_link_release(v->req, v->depth * sizeof(*v->req));
	xm_link_release(v->staging, STAGING_BYTES);
	xm_link_release(v->spill, SPILL_BYTES);
	xm_link_release(v, sizeof(*v));
}

static void verbs_close(struct xm_link *l)
{
	struct verbs_link *v = verbs_of(l);

	xm_verbs_disconnect(&v->conn);
	for (unsigned i = 0; i < XM_VERBS_LENT; i++)
		if (v->lent[i].mr)
			xm_rdma.dereg_mr(v->lent[i].mr);
	if (v->mr)
		xm_rdma.dereg_mr(v->mr);
	xm_verbs_queues_close(&v->q);
	release(v);
}

static void verbs_forget(struct xm_link *l)
{
	struct verbs_link *v = verbs_of(l);

	xm_verbs_conn_forget(&v->conn, &v->q);
	release(v);
}

static void verbs_kill(struct xm_link *l)
{
	verbs_of(l)->refused = false;
	die(verbs_of(l));
}

static int verbs_reconnect(struct xm_link *l)
{
	struct verbs_link *v = verbs_of(l);
	struct xm_backoff b = { 0 };
	int ret = -ENOLINK, why = -ENOLINK;

	if (verbs_state(l) == 0)
		return 0;
	die(v);
	b.deadline_ns = xm_now_ns() + l->peer->lost_timeout_ns;
	do {
		uint64_t limit = xm_min(b.deadline_ns, xm_now_ns() + l->peer->connect_timeout_ns);

		if (xm_peer_state(l->peer) == 0)
			ret = xm_verbs_connect(l->peer, v->id, limit, &v->conn, &v->q, NULL);
		if (ret == 0) {
			v->stats.reconnects++;
			return 0;
		}
		if (ret == -EUSERS) /* the last attempt may have been too short to be told */
			why = ret;
	} while (xm_peer_state(l->peer) == 0 && xm_backoff(&b));
	return why;
}

static void *verbs_direct(struct xm_link *l, uint64_t region, uint64_t off, size_t len, bool writing)
{
	return NULL;
}

static int verbs_path(struct xm_link *l, struct xm_link_path *out)
{
	struct verbs_link *v = verbs_of(l);

	xm_verbs_path(l->peer, &v->conn, out);
	out->pinned_bytes = v->mr ? STAGING_BYTES : 0;
	return v->conn.qp ? 1 : -ENOLINK;
}

static struct ibv_mr *register_memory(struct verbs_link *v, void *buf, size_t len)
{
	v->stats.registrations++;
	return (xm_rdma.reg_mr)(v->link.peer->verbs->pd, buf, len, IBV_ACCESS_LOCAL_WRITE);
}

static int verbs_lend(struct xm_link *l, void *buf, size_t len)
{
	struct verbs_link *v = verbs_of(l);

	for (unsigned i = 0; i < XM_VERBS_LENT; i++) {
		struct lent *b = &v->lent[i];

		if (b->mr)
			continue;
		b->mr = register_memory(v, buf, len);
		if (!b->mr)
			return -ENOMEM;
		b->at = buf;
		b->len = len;
		return 1;
	}
	return -ENOSPC;
}

static const struct xm_link_ops verbs_ops = {
	.name = "verbs",
	.close = verbs_close,
	.direct = verbs_direct,
	.lend = verbs_lend,
	.path = verbs_path,
	.read = verbs_read,
	.writev = verbs_writev,
	.cas = verbs_cas,
	.faa = verbs_faa,
	.flush = verbs_flush,
	.poll = verbs_poll,
	.wait = verbs_wait,
	.state = verbs_state,
	.stats = verbs_stats,
	.forget = verbs_forget,
	.reconnect = verbs_reconnect,
	.kill = verbs_kill,
};

static int make_memory(struct verbs_link *v)
{
	v->depth = v->q.depth;
	v->req = xm_link_alloc(v->depth * sizeof(*v->req));
	v->staging = xm_link_alloc(STAGING_BYTES);
	v->spill = xm_link_alloc(SPILL_BYTES);
	if (!v->req || !v->staging || !v->spill)
		return -ENOMEM;
	xm_sys_prefer_node(v->staging, STAGING_BYTES, v->link.peer->verbs->node);
	v->mr = register_memory(v, v->staging, STAGING_BYTES);
	if (!v->mr)
		return -ENOMEM;
	for (uint16_t i = 0; i < XM_VERBS_BLOCKS; i++)
		free_block(v, i);
	return 0;
}

int xm_verbs_link_open(struct xm_peer *p, struct xm_link **out, char *why)
{
	struct verbs_link *v = xm_link_alloc(sizeof(*v));
	int ret;

	if (!v)
		return -ENOMEM;
	v->link.ops = &verbs_ops;
	v->link.peer = p;
	v->id = xm_peer_random(p);
	ret = xm_verbs_connect(p, v->id, xm_now_ns() + p->connect_timeout_ns, &v->conn, &v->q, why);
	if (ret == 0)
		ret = make_memory(v);
	if (ret < 0) {
		xm_verbs_explain(p, ret, why);
		verbs_close(&v->link);
		return ret;
	}
	*out = &v->link;
	return 0;
}
