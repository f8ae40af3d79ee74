/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.c - the decorator of trace.h: passes everything on and writes one ring entry each.
 * One thread at a time, like the link inside. Nothing is allocated after the wrap.
 */
#include "link/trace.h"

#include "link/peer_impl.h"

#include <errno.h>

struct trace {
	struct xm_link link;
	struct xm_link *inner;
	uint64_t count;
	struct xm_trace_entry ring[XM_TRACE_ENTRIES];
};

static struct trace *trace_of(const struct xm_link *l)
{
	return xm_container_of((struct xm_link *)l, struct trace, link);
}

static struct xm_trace_entry *record(struct trace *t, enum xm_trace_what what, int status)
{
	struct xm_trace_entry *e = &t->ring[t->count++ % XM_TRACE_ENTRIES];

	*e = (struct xm_trace_entry){ .time_ns = xm_now_ns(), .what = what, .status = status };
	return e;
}

static int record_op(struct trace *t, struct xm_trace_entry with)
{
	struct xm_trace_entry *e = record(t, with.what, with.status);

	with.time_ns = e->time_ns;
	*e = with;
	return with.status;
}

static int trace_read(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off,
		      uint64_t cookie)
{
	struct trace *t = trace_of(l);
	int ret = t->inner->ops->read(t->inner, dst, len, region, off, cookie);

	return record_op(t, (struct xm_trace_entry){ .what = XM_TRACE_READ,
						     .status = ret,
						     .region = region,
						     .off = off,
						     .cookie = cookie,
						     .len = (uint32_t)len });
}

static int trace_writev(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
			uint64_t cookie)
{
	struct trace *t = trace_of(l);
	int ret = t->inner->ops->writev(t->inner, iov, n, region, off, cookie);
	size_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return record_op(t, (struct xm_trace_entry){ .what = XM_TRACE_WRITE,
						     .status = ret,
						     .region = region,
						     .off = off,
						     .cookie = cookie,
						     .len = (uint32_t)len });
}

static int trace_cas(struct xm_link *l, uint64_t region, uint64_t off, uint64_t expect, uint64_t desired,
		     uint64_t cookie)
{
	struct trace *t = trace_of(l);
	int ret = t->inner->ops->cas(t->inner, region, off, expect, desired, cookie);

	return record_op(t, (struct xm_trace_entry){ .what = XM_TRACE_CAS,
						     .status = ret,
						     .region = region,
						     .off = off,
						     .cookie = cookie,
						     .len = 8 });
}

static int trace_faa(struct xm_link *l, uint64_t region, uint64_t off, uint64_t add, uint64_t cookie)
{
	struct trace *t = trace_of(l);
	int ret = t->inner->ops->faa(t->inner, region, off, add, cookie);

	return record_op(t, (struct xm_trace_entry){ .what = XM_TRACE_FAA,
						     .status = ret,
						     .region = region,
						     .off = off,
						     .cookie = cookie,
						     .len = 8 });
}

static int trace_lend(struct xm_link *l, void *buf, size_t len)
{
	return xm_link_lend(trace_of(l)->inner, buf, len);
}

static int trace_path(struct xm_link *l, struct xm_link_path *out)
{
	return xm_link_path(trace_of(l)->inner, out);
}

static void *trace_direct(struct xm_link *l, uint64_t region, uint64_t off, size_t len, bool writing)
{
	struct trace *t = trace_of(l);
	void *p = t->inner->ops->direct(t->inner, region, off, len, writing);

	record_op(t, (struct xm_trace_entry){ .what = XM_TRACE_DIRECT,
					      .status = p ? 0 : -ENXIO,
					      .region = region,
					      .off = off,
					      .len = (uint32_t)len });
	return p;
}

static int trace_flush(struct xm_link *l)
{
	struct trace *t = trace_of(l);
	int ret = t->inner->ops->flush(t->inner);

	record(t, XM_TRACE_FLUSH, ret);
	return ret;
}

static int trace_poll(struct xm_link *l, struct xm_completion *c, int n)
{
	struct trace *t = trace_of(l);
	int got = t->inner->ops->poll(t->inner, c, n);

	for (int i = 0; i < got; i++) {
		struct xm_trace_entry *e = record(t, XM_TRACE_COMPLETION, c[i].status);

		e->cookie = c[i].cookie;
		e->len = c[i].bytes;
	}
	return got;
}

static int trace_wait(struct xm_link *l, uint64_t timeout_ns)
{
	struct trace *t = trace_of(l);

	return t->inner->ops->wait(t->inner, timeout_ns);
}

static int trace_state(struct xm_link *l)
{
	struct trace *t = trace_of(l);

	return t->inner->ops->state(t->inner);
}

static void trace_stats(struct xm_link *l, struct xm_link_stats *out)
{
	struct trace *t = trace_of(l);

	t->inner->ops->stats(t->inner, out);
}

static void trace_close(struct xm_link *l)
{
	struct trace *t = trace_of(l);

	t->inner->ops->close(t->inner);
	xm_link_release(t, sizeof(*t));
}

static void trace_forget(struct xm_link *l)
{
	struct trace *t = trace_of(l);

	t->inner->ops->forget(t->inner);
	xm_link_release(t, sizeof(*t));
}

static int trace_reconnect(struct xm_link *l)
{
	struct trace *t = trace_of(l);
	int ret = t->inner->ops->reconnect(t->inner);

	record(t, XM_TRACE_RECONNECT, ret);
	return ret;
}

static void trace_kill(struct xm_link *l)
{
	struct trace *t = trace_of(l);

	t->inner->ops->kill(t->inner);
}

static const struct xm_link_ops trace_ops = {
	.name = "trace",
	.close = trace_close,
	.direct = trace_direct,
	.lend = trace_lend,
	.path = trace_path,
	.read = trace_read,
	.writev = trace_writev,
	.cas = trace_cas,
	.faa = trace_faa,
	.flush = trace_flush,
	.poll = trace_poll,
	.wait = trace_wait,
	.state = trace_state,
	.stats = trace_stats,
	.forget = trace_forget,
	.reconnect = trace_reconnect,
	.kill = trace_kill,
};

int xm_trace_wrap(struct xm_link *inner, struct xm_link **out)
{
	struct trace *t = xm_link_alloc(sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->link.ops = &trace_ops;
	t->link.peer = inner->peer;
	t->inner = inner;
	*out = &t->link;
	return 0;
}

uint64_t xm_trace_count(const struct xm_link *traced)
{
	return trace_of(traced)->count;
}

const struct xm_trace_entry *xm_trace_get(const struct xm_link *traced, uint64_t i)
{
	const struct trace *t = trace_of(traced);

	if (i >= t->count || t->count - i > XM_TRACE_ENTRIES)
		return NULL;
	return &t->ring[i % XM_TRACE_ENTRIES];
}
