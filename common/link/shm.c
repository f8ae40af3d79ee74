/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm.c - links to an appliance on the same host: its slabs are mapped here, and an operation is a copy.
 *
 * Every copy is made by the kernel (process_vm_readv/writev on ourselves), so that memory that goes away
 * on either side is an error code and no signal. Which side it was is found by reading one byte of the slab:
 * truncation is for ever, so a slab that answers was not the reason. A slab that does not answer may have
 * been replaced (shrunk and grown again by another process of the session): it is asked for once more. One that
 * the appliance has just handed out, whole, and that still does not answer, is not to be had for want of memory: the
 * kernel says EFAULT for that too. That passes: -ENOMEM.
 *
 * Writes from lent memory wait for each other until somebody asks for completions, or for something else: one call for many
 * costs half as much (a page of 4 KiB 1.1 instead of 2 us).
 *
 * A slab that may only be read is mapped so, and what would write to it is refused before it is tried: -EACCES.
 *
 * Atomics run on the mapping itself. The page is probed first; the window between probe and access remains:
 * an appliance that frees the slab just then raises SIGBUS here. Only the requests of the session that owns a
 * region free its slabs, so a client that does not race its own free is safe; in another's region, atomics are for
 * those who have agreed with it about when it frees.
 *
 * One thread at a time per link. Takes the peer's mutex only to map a slab. Allocates nothing after open.
 */
#include "link/peer_impl.h"

#include "sys.h"

#include <string.h>

#define PIECES 2 /* an operation is not longer than the smallest slab: it touches at most two */

#define LATER_MAX 64

struct range {
	uint64_t region, off, len;
	bool writing;
};

struct later {
	struct range at;
	uint64_t cookie;
};

struct shm_link {
	struct xm_link link;
	int dead;
	struct xm_link_stats stats;
	struct xm_done done;
	struct iovec lent;
	struct later later[LATER_MAX]; /* writes that wait */
	struct iovec from[LATER_MAX];  /* a piece of lent memory each */
	int nlater;
};

_Static_assert(XM_LINK_OP_MAX <= 1u << 20, "at most two slabs an operation");

static struct shm_link *shm_of(struct xm_link *l)
{
	return xm_container_of(l, struct shm_link, link);
}

static void complete(struct shm_link *s, uint64_t cookie, int status, uint32_t bytes, uint64_t value)
{
	xm_done_put(&s->done, &s->stats,
		    (struct xm_completion){ .cookie = cookie, .status = status, .bytes = bytes, .value = value });
}

static int admit(struct shm_link *s, uint64_t len)
{
	if (!len || len > XM_LINK_OP_MAX)
		return -EINVAL;
	if (s->dead || xm_peer_state(s->link.peer) < 0)
		return -ENOLINK;
	return s->done.count + (unsigned)s->nlater < XM_LINK_DEPTH ? 0 : -EAGAIN;
}

/* Region byte `off` as mapped memory, for writing or not. 0; -EACCES; as xm_peer_slab_map() */
static int slab_at(struct xm_peer *p, uint64_t region, uint64_t off, bool writing, uint8_t **out)
{
	uint64_t slab = off >> p->slab_shift;
	bool writable;
	uint8_t *addr = xm_peer_slab(p, region, slab, &writable);

	if (xm_unlikely(!addr)) {
		int ret = xm_peer_slab_map(p, region, slab, 0);

		if (ret < 0)
			return ret;
		addr = xm_peer_slab(p, region, slab, &writable);
		if (!addr)
			return -ENXIO;
	}
	if (xm_unlikely(writing && !writable))
		return -EACCES;
	*out = addr + (off & ((1ull << p->slab_shift) - 1));
	return 0;
}

/* The range as pieces of mapped memory: their number, or -errno. */
static int locate(struct xm_peer *p, const struct range *r, struct iovec out[PIECES])
{
	uint64_t slab_bytes = 1ull << p->slab_shift, off = r->off, len = r->len;
	int n = 0;

	if (off + len < off)
		return -ENXIO;
	while (len) {
		uint64_t part = xm_min(len, slab_bytes - (off & (slab_bytes - 1)));
		uint8_t *addr;
		int ret = slab_at(p, r->region, off, r->writing, &addr);

		if (ret < 0)
			return ret;
		out[n].iov_base = addr;
		out[n++].iov_len = part;
		off += part;
		len -= part;
	}
	return n;
}

static int readable(struct xm_peer *p, const void *addr)
{
	uint8_t byte;
	struct iovec local = { &byte, 1 }, remote = { (void *)addr, 1 };

	return xm_sys_vm_readv(&local, 1, &remote, 1) == 1;
}

/* A copy failed at region byte `at`. 0: the slab was replaced, try again; else what to report. */
static int find_cause(struct xm_peer *p, uint64_t region, uint64_t at, uint64_t end)
{
	uint8_t *addr;
	int ret;

	/* the copy may stop short in its last page: look at the place and at the end */
	for (int i = 0; i < 2; i++, at = end - 1) {
		ret = slab_at(p, region, at, false, &addr);
		if (ret < 0)
			return ret;
		if (!readable(p, addr))
			return xm_peer_slab_map(p, region, at >> p->slab_shift, 1);
	}
	return -EFAULT;
}

static int copy(struct xm_link *l, const struct iovec *local, int n, struct range at)
{
	struct xm_peer *p = l->peer;
	struct iovec remote[PIECES];
	bool doubted = false;

	for (int attempt = 0; attempt <= PIECES + 1; attempt++) {
		int pieces = locate(p, &at, remote);
		ssize_t done;
		int ret;

		if (pieces < 0)
			return pieces;
		if (at.writing)
			done = xm_sys_vm_writev(local, (unsigned)n, remote, (unsigned)pieces);
		else
			done = xm_sys_vm_readv(local, (unsigned)n, remote, (unsigned)pieces);
		if (xm_likely(done == (ssize_t)at.len))
			return 0;
		if (done < 0 && done != -EFAULT)
			return done == -ENOMEM ? -ENOMEM : -EIO;
		ret = find_cause(p, at.region, at.off + (uint64_t)xm_max(done, 0), at.off + at.len);
		/* a slab that answers now may have been mapped anew by another thread since: once more before the caller's
		 * memory is to blame */
		if (ret < 0 && (ret != -EFAULT || doubted))
			return ret;
		doubted = ret == -EFAULT;
	}
	return -ENOMEM;
}

/* Whether the range can be located without asking the appliance, and be written. */
static bool is_known(struct xm_peer *p, const struct range *r)
{
	bool writable, too;

	return xm_peer_slab(p, r->region, r->off >> p->slab_shift, &writable) && writable &&
	       xm_peer_slab(p, r->region, (r->off + r->len - 1) >> p->slab_shift, &too) && too;
}

/* By one call, up to the first whose slab has gone meanwhile: an address is not used long after it was looked up, so nobody
 * is asked in between. How many bytes. */
static uint64_t write_together(struct shm_link *s)
{
	struct iovec to[PIECES * LATER_MAX];
	int n = 0, pieces, i;
	ssize_t done;

	for (i = 0; i < s->nlater && is_known(s->link.peer, &s->later[i].at); i++, n += pieces) {
		pieces = locate(s->link.peer, &s->later[i].at, to + n);
		if (pieces < 0)
			break;
	}
	done = i ? xm_sys_vm_writev(s->from, (unsigned)i, to, (unsigned)n) : 0;
	return done > 0 ? (uint64_t)done : 0;
}

/* The writes that wait: each that did not go with the others by itself, for its own result. */
static void write_now(struct shm_link *s)
{
	uint64_t done = s->nlater > 1 && !s->dead ? write_together(s) : 0, end = 0;

	for (int i = 0; i < s->nlater; i++) {
		const struct later *w = &s->later[i];
		int status = 0;

		end += w->at.len;
		if (s->dead)
			status = -ENOLINK;
		else if (done < end)
			status = copy(&s->link, &s->from[i], 1, w->at);
		complete(s, w->cookie, status, (uint32_t)w->at.len, 0);
	}
	s->nlater = 0;
}

static bool is_lent(const struct shm_link *s, const struct iovec *v)
{
	uintptr_t at = (uintptr_t)v->iov_base - (uintptr_t)s->lent.iov_base;

	return at < s->lent.iov_len && v->iov_len <= s->lent.iov_len - at;
}

static int shm_read(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off, uint64_t cookie)
{
	struct shm_link *s = shm_of(l);
	struct iovec local = { dst, len };
	int ret = admit(s, len);

	if (ret < 0)
		return ret;
	write_now(s);
	s->stats.reads++;
	s->stats.read_bytes += len;
	complete(s, cookie, copy(l, &local, 1, (struct range){ region, off, len, false }), (uint32_t)len, 0);
	return 0;
}

static int shm_writev(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
		      uint64_t cookie)
{
	struct shm_link *s = shm_of(l);
	struct range at = { region, off, 0, true };
	uint64_t len;
	int ret;

	if (n < 1 || n > XM_LINK_IOV_MAX)
		return -EINVAL;
	at.len = len = xm_iov_bytes(iov, n);
	ret = admit(s, len);
	if (ret < 0)
		return ret;
	s->stats.writes++;
	s->stats.write_bytes += len;
	if (n == 1 && is_lent(s, iov) && off + len > off && is_known(l->peer, &at)) {
		s->from[s->nlater] = *iov;
		s->later[s->nlater++] = (struct later){ at, cookie };
		if (s->nlater == LATER_MAX)
			write_now(s);
		return 0;
	}
	write_now(s);
	complete(s, cookie, copy(l, iov, n, at), (uint32_t)len, 0);
	return 0;
}

/* Nothing is registered: it is only known to stay as it is until a write from it is complete. */
static int shm_lend(struct xm_link *l, void *buf, size_t len)
{
	shm_of(l)->lent = (struct iovec){ buf, len };
	return 0;
}

/* The word, or -errno: mapped, aligned and there a moment ago. */
static int word_at(struct xm_link *l, uint64_t region, uint64_t off, uint64_t **out)
{
	uint8_t *addr;
	int ret;

	if (off & 7)
		return -EINVAL;
	for (int attempt = 0; attempt < 2; attempt++) {
		ret = slab_at(l->peer, region, off, true, &addr);
		if (ret < 0)
			return ret;
		if (readable(l->peer, addr)) {
			*out = (uint64_t *)(void *)addr;
			return 0;
		}
		ret = xm_peer_slab_map(l->peer, region, off >> l->peer->slab_shift, 1);
		if (ret < 0)
			return ret;
	}
	return -ENOMEM;
}

static int shm_cas(struct xm_link *l, uint64_t region, uint64_t off, uint64_t expect, uint64_t desired,
		   uint64_t cookie)
{
	struct shm_link *s = shm_of(l);
	uint64_t *word;
	int ret = admit(s, 8);

	if (ret < 0)
		return ret;
	write_now(s);
	s->stats.atomics++;
	ret = word_at(l, region, off, &word);
	if (ret == 0)
		__atomic_compare_exchange_n(word, &expect, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	complete(s, cookie, ret, 8, expect);
	return 0;
}

static int shm_faa(struct xm_link *l, uint64_t region, uint64_t off, uint64_t add, uint64_t cookie)
{
	struct shm_link *s = shm_of(l);
	uint64_t *word, before = 0;
	int ret = admit(s, 8);

	if (ret < 0)
		return ret;
	write_now(s);
	s->stats.atomics++;
	ret = word_at(l, region, off, &word);
	if (ret == 0)
		before = __atomic_fetch_add(word, add, __ATOMIC_SEQ_CST);
	complete(s, cookie, ret, 8, before);
	return 0;
}

static void *shm_direct(struct xm_link *l, uint64_t region, uint64_t off, size_t len, bool writing)
{
	struct xm_peer *p = l->peer;
	uint64_t slab_bytes = 1ull << p->slab_shift, in_slab = off & (slab_bytes - 1);
	uint8_t *addr;
	bool writable;

	write_now(shm_of(l));
	if (shm_of(l)->dead || xm_peer_state(p) < 0 || len > slab_bytes - in_slab)
		return NULL;
	if (writing) { /* many at once: the appliance is asked for none of them, since the addresses do not keep (peer_impl.h) */
		addr = xm_peer_slab(p, region, off >> p->slab_shift, &writable);
		return addr && writable ? addr + in_slab : NULL;
	}
	return slab_at(p, region, off, false, &addr) == 0 ? addr : NULL;
}

static int shm_flush(struct xm_link *l)
{
	write_now(shm_of(l));
	return 0;
}

static int shm_poll(struct xm_link *l, struct xm_completion *c, int n)
{
	struct shm_link *s = shm_of(l);

	write_now(s);
	return xm_done_take(&s->done, &s->stats, c, n);
}

/* What is not there now will not come. */
static int shm_wait(struct xm_link *l, uint64_t timeout_ns)
{
	write_now(shm_of(l));
	return shm_of(l)->done.count ? 0 : -ETIMEDOUT;
}

static int shm_state(struct xm_link *l)
{
	return shm_of(l)->dead ? -ENOLINK : xm_peer_state(l->peer);
}

static void shm_stats(struct xm_link *l, struct xm_link_stats *out)
{
	*out = shm_of(l)->stats;
}

static void shm_close(struct xm_link *l)
{
	xm_link_release(shm_of(l), sizeof(struct shm_link));
}

static void shm_kill(struct xm_link *l)
{
	shm_of(l)->dead = 1;
	write_now(shm_of(l));
}

static int shm_reconnect(struct xm_link *l)
{
	struct shm_link *s = shm_of(l);

	if (xm_peer_state(l->peer) < 0)
		return -ENOLINK;
	s->stats.reconnects += (unsigned)s->dead;
	s->dead = 0;
	return 0;
}

static const struct xm_link_ops shm_ops = {
	.name = "shm",
	.close = shm_close,
	.direct = shm_direct,
	.lend = shm_lend,
	.read = shm_read,
	.writev = shm_writev,
	.cas = shm_cas,
	.faa = shm_faa,
	.flush = shm_flush,
	.poll = shm_poll,
	.wait = shm_wait,
	.state = shm_state,
	.stats = shm_stats,
	.forget = shm_close,
	.reconnect = shm_reconnect,
	.kill = shm_kill,
};

int xm_shm_link_open(struct xm_peer *p, struct xm_link **out)
{
	struct shm_link *s = xm_link_alloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->link.ops = &shm_ops;
	s->link.peer = p;
	*out = &s->link;
	return 0;
}
