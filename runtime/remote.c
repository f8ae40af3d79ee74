/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.c - the appliances as the runtime uses them: peers, a pool of workers (one link an appliance and a
 * staging area each), batches of page reads and writes with retry, checksums, growth of the slot book.
 *
 * Threads: handlers, fetchers and the reclaim thread, each with a worker of its own, and program threads in mapping
 * calls. Locks: grow_lock inside this process, family.grow_owner between processes. Allocates only when a
 * link is opened (raw mmap, by the link).
 *
 * A transient failure (-EIO, -EPROTO, a checksum that does not fit, a connection that died) is repeated here, so that
 * what callers see is final: 0, or the page is not to be had (-ENOLINK, -ENXIO, -EACCES, -ESTALE). Other errors are of
 * this process, which lacks something just now: callers try again when they can.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <string.h>
#include <sys/mman.h>

#include "backoff.h"
#include "procid.h"
#include "runtime/internal.h"
#include "runtime/probes.h"

#define TRANSIENT_TRIES 16
#define GROW_PAUSE_NS 100000000ull /* between questions to appliances that are full */

enum { FREE = 0, TAKEN, RESTS }; /* xm_worker.busy */

static uint32_t page_sum(const void *page)
{
	return (uint32_t)XXH3_64bits(page, XM_PAGE_SIZE) | 1; /* 0 means unknown */
}

static unsigned appliance_of(struct xm_runtime *rt, uint64_t slot)
{
	return xm_slot_slab(rt->fam, slot)->appliance;
}

/* A part of a huge page, which worker i shares with its neighbours; NULL: there is none free. */
static char *huge_part(struct xm_runtime *rt, int i)
{
	char **at = &rt->huge[(unsigned)i / XM_HUGE_SHARE], *page = xm_load(at), *made;

	if (!page) {
		made = xm_sys_mmap(NULL, XM_HUGE_BYTES, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1, 0);
		if (!made) {
			xm_debug("no huge page of 2 MiB is free for buffers of links: ordinary pages are used");
			return NULL;
		}
		xm_sys_madvise(made, XM_HUGE_BYTES, MADV_DONTFORK);
		if (__atomic_compare_exchange_n(at, &page, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
			xm_sys_prefer_node(made, XM_HUGE_BYTES, rt->staging.node);
			page = made;
		} else {
			xm_sys_munmap(made, XM_HUGE_BYTES);
		}
	}
	return page + (size_t)i % XM_HUGE_SHARE * XM_STAGING_BYTES;
}

/* What is lent to a device is no fork child's: a copy of a page that a device writes to would be made at the fork, and
 * one of a huge page kills where no other is free. */
static void make_staging(struct xm_runtime *rt, int i)
{
	struct xm_worker *w = &rt->worker[i];

	w->staging = rt->staging.huge ? huge_part(rt, i) : NULL;
	w->huge = w->staging;
	if (w->staging)
		return;
	w->staging = xm_local_alloc(XM_STAGING_BYTES);
	if (!w->staging || !rt->staging.pinned)
		return;
	xm_sys_madvise(w->staging, XM_STAGING_BYTES, MADV_DONTFORK);
	xm_sys_prefer_node(w->staging, XM_STAGING_BYTES, rt->staging.node);
}

static bool take(struct xm_worker *w)
{
	uint32_t free = FREE;

	return __atomic_compare_exchange_n(&w->busy, &free, TAKEN, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* Taken; NULL: not any more, there is no memory for its staging. */
static struct xm_worker *with_staging(struct xm_runtime *rt, int i)
{
	struct xm_worker *w = &rt->worker[i];

	if (!w->staging)
		make_staging(rt, i);
	if (w->staging)
		return w;
	xm_store(&w->busy, FREE);
	return NULL;
}

static struct xm_worker *get_of(struct xm_runtime *rt, int n)
{
	for (int i = 0; i < n; i++)
		if (take(&rt->worker[i]))
			return with_staging(rt, i);
	return NULL;
}

struct xm_worker *xm_worker_get(struct xm_runtime *rt)
{
	return get_of(rt, XM_WORKERS_MAX);
}

struct xm_worker *xm_worker_get_for_fault(struct xm_runtime *rt)
{
	return get_of(rt, XM_WORKERS_MAX - XM_WORKERS_SPARE);
}

static bool has_links(const struct xm_worker *w)
{
	for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++)
		if (w->link[a])
			return true;
	return false;
}

struct xm_worker *xm_worker_get_unused(struct xm_runtime *rt)
{
	for (int i = XM_WORKERS_MAX - 1; i >= 0; i--) {
		struct xm_worker *w = &rt->worker[i];

		if (!take(w))
			continue;
		if (!has_links(w))
			return with_staging(rt, i);
		xm_store(&w->busy, FREE);
	}
	return NULL;
}

void xm_worker_close_links(struct xm_runtime *rt, struct xm_worker *w)
{
	for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++) {
		if (w->link[a])
			w->link[a]->ops->close(w->link[a]);
		w->link[a] = NULL;
	}
	memset(w->told, 0, sizeof(w->told));
	w->lent = false;
	xm_frame_uncharge(rt, w->link_pages);
	__atomic_store_n(&w->link_pages, 0, __ATOMIC_RELAXED);
}

void xm_worker_put(struct xm_worker *w)
{
	xm_store(&w->busy, FREE);
}

void xm_worker_rest(struct xm_worker *w)
{
	xm_store(&w->busy, RESTS);
}

void xm_worker_resume(struct xm_worker *w)
{
	uint32_t rests = RESTS;

	while (!__atomic_compare_exchange_n(&w->busy, &rests, TAKEN, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
		rests = RESTS; /* it is being trimmed: one call of the kernel's */
		xm_sys3(SYS_sched_yield, 0, 0, 0);
	}
}

void xm_worker_stage(struct xm_runtime *rt, struct xm_worker *w, int n)
{
	if ((uint32_t)n <= w->staged)
		return;
	xm_frame_charge(rt, (uint32_t)n - w->staged);
	__atomic_store_n(&w->staged, (uint32_t)n, __ATOMIC_RELAXED);
}

/* Gives the staging pages back, unless a link has registered them, or they are part of a huge page. */
static void trim(struct xm_runtime *rt, struct xm_worker *w)
{
	if (!w->staged || w->lent || w->huge)
		return;
	xm_sys_madvise(w->staging, XM_STAGING_BYTES, MADV_DONTNEED);
	xm_frame_uncharge(rt, w->staged);
	__atomic_store_n(&w->staged, 0, __ATOMIC_RELAXED);
}

void xm_worker_trim_idle(struct xm_runtime *rt)
{
	for (int i = 0; i < XM_WORKERS_MAX; i++) {
		struct xm_worker *w = &rt->worker[i];
		uint32_t was = xm_load_relaxed(&w->busy);

		if (!xm_load_relaxed(&w->staged) || was == TAKEN ||
		    !__atomic_compare_exchange_n(&w->busy, &was, TAKEN, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		trim(rt, w);
		xm_store(&w->busy, was);
	}
}

/* The link may use the worker's staging, which then stays resident: near the device, and charged. */
static void lend(struct xm_runtime *rt, struct xm_worker *w, struct xm_link *l)
{
	struct xm_link_path path;

	if (xm_link_path(l, &path) == 1) {
		uint32_t pages = (uint32_t)(path.pinned_bytes >> XM_PAGE_SHIFT);

		xm_frame_charge(rt, pages);
		__atomic_store_n(&w->link_pages, w->link_pages + pages, __ATOMIC_RELAXED);
		if (w->huge)
			xm_sys_prefer_node((void *)((uintptr_t)w->staging & ~(XM_HUGE_BYTES - 1)), XM_HUGE_BYTES, path.node);
		else
			xm_sys_prefer_node(w->staging, XM_STAGING_BYTES, path.node);
	}
	if (xm_link_lend(l, w->staging, XM_STAGING_BYTES) == 1) {
		w->lent = true;
		xm_worker_stage(rt, w, XM_BATCH);
	}
}

/* NULL and *err: it cannot be opened (just now). */
static struct xm_link *link_of(struct xm_runtime *rt, struct xm_worker *w, unsigned a, int *err)
{
	if (!w->link[a] && rt->peer[a]) {
		struct xm_link *l = NULL;

		*err = xm_link_open(rt->peer[a], &l);
		if (*err < 0)
			return NULL;
		w->link[a] = l;
		lend(rt, w, l);
	}
	return w->link[a];
}

/* No page is lost by it: memory or descriptors are missing, here, or the session has as many connections as it may. */
static bool passes(int err)
{
	return err == -ENOMEM || err == -ENOBUFS || err == -EMFILE || err == -ENFILE || err == -EUSERS;
}

int xm_remote_ready(struct xm_runtime *rt, struct xm_worker *w)
{
	for (unsigned a = 0; a < rt->fam->cfg.appliances; a++) {
		int err = 0;

		if ((rt->waits & (1u << a)) && rt->peer[a] && !link_of(rt, w, a, &err) &&
		    xm_peer_state(rt->peer[a]) == 0)
			return err;
	}
	return 0;
}

static uint64_t lost_timeout(struct xm_runtime *rt)
{
	return rt->fam->cfg.lost_timeout_ns ? rt->fam->cfg.lost_timeout_ns : 10ull * 1000000000;
}

/* The part of one transfer that goes to one appliance. */
struct batch {
	struct xm_runtime *rt;
	struct xm_worker *w;
	const uint64_t *slot;
	int32_t *status;	/* -EINPROGRESS: still to be done; > 0: not part of the transfer */
	int n;
	bool write;
	unsigned appliance;
	struct xm_link *link;
	bool link_died;
};

static bool is_due(const struct batch *b, int i)
{
	return b->status[i] == -EINPROGRESS && appliance_of(b->rt, b->slot[i]) == b->appliance;
}

/* The worker's link, opened if need be; a short outage is waited for as that of an open link is. NULL and *err: -ENOLINK,
 * or -ENOMEM, for want of something that may be there later. */
static struct xm_link *link_wait(struct xm_runtime *rt, struct xm_worker *w, unsigned a, int *err)
{
	struct xm_backoff b = { .deadline_ns = xm_now_ns() + lost_timeout(rt) };
	int why = 0;
	struct xm_link *l = link_of(rt, w, a, &why);

	while (!l && rt->peer[a] && xm_peer_state(rt->peer[a]) == 0 && xm_backoff(&b))
		l = link_of(rt, w, a, &why);
	*err = passes(why) && rt->peer[a] && xm_peer_state(rt->peer[a]) == 0 ? -ENOMEM : -ENOLINK;
	return l;
}

/* Neighbouring slots of one slab are one operation: [i, end) of the batch. */
static int run_end(const struct batch *b, int i)
{
	struct xm_slab_desc *d = xm_slot_slab(b->rt->fam, b->slot[i]);
	int end = i + 1;

	while (end < b->n && b->status[end] == -EINPROGRESS && b->slot[end] == b->slot[end - 1] + 1 &&
	       xm_slot_slab(b->rt->fam, b->slot[end]) == d)
		end++;
	return end;
}

static int submit_run(const struct batch *b, int i, int end)
{
	struct xm_slab_desc *d = xm_slot_slab(b->rt->fam, b->slot[i]);
	uint64_t off = xm_slot_offset(b->rt->fam, b->slot[i]), cookie = (uint64_t)i << 32 | (uint32_t)end;
	struct iovec iov = { b->w->staging + (size_t)i * XM_PAGE_SIZE, (size_t)(end - i) * XM_PAGE_SIZE };

	if (b->write)
		return b->link->ops->writev(b->link, &iov, 1, d->region, off, cookie);
	return b->link->ops->read(b->link, iov.iov_base, iov.iov_len, d->region, off, cookie);
}

/* Collects completions until `pending` operations came back; one that takes longer than the lost timeout is
 * treated as a dead connection (the reconnect completes what is left). */
static void collect(const struct batch *b, int pending)
{
	uint64_t end = xm_now_ns() + lost_timeout(b->rt);
	struct xm_completion c[32];

	while (pending > 0) {
		int n = b->link->ops->poll(b->link, c, XM_ARRAY_SIZE(c));

		for (int k = 0; k < n; k++) {
			int from = (int)(c[k].cookie >> 32), to = (int)(uint32_t)c[k].cookie;

			for (int i = from; i < to; i++)
				b->status[i] = c[k].status;
			pending--;
		}
		if (n)
			continue;
		if (xm_now_ns() > end) {
			b->link->ops->kill(b->link);
			xm_link_reconnect(b->link);
			end = xm_now_ns() + lost_timeout(b->rt);
			continue;
		}
		b->link->ops->wait(b->link, 100000000);
	}
}

/* One attempt at everything that is still to be done. */
static void attempt(const struct batch *b)
{
	int pending = 0;

	for (int i = 0, end; i < b->n; i = end) {
		int rc;

		end = i + 1;
		if (!is_due(b, i))
			continue;
		end = run_end(b, i);
		rc = submit_run(b, i, end);
		if (rc == 0) {
			pending++;
			continue;
		}
		for (int k = i; k < end; k++)
			b->status[k] = rc;
	}
	if (pending) {
		b->link->ops->flush(b->link);
		collect(b, pending);
	}
}

/* Remembers, or compares, the checksum of a page that has just been moved. */
static int check_sum(const struct batch *b, int i)
{
	uint32_t *known = &xm_family_sums(b->rt->fam)[b->slot[i]], was;
	uint32_t sum = page_sum(b->w->staging + (size_t)i * XM_PAGE_SIZE);

	if (b->write) {
		xm_store(known, sum);
		return 0;
	}
	was = xm_load(known);
	if (!was || was == sum)
		return 0;
	xm_stat_add(b->rt, checksum_errors, 1);
	return -EBADMSG;
}

/* After an attempt: what failed in a way that may pass is to be done again. Returns how many. */
static int sort_out(struct batch *b)
{
	int again = 0;

	b->link_died = false;
	for (int i = 0; i < b->n; i++) {
		int32_t *st = &b->status[i];

		if (*st > 0 || appliance_of(b->rt, b->slot[i]) != b->appliance)
			continue;
		if (*st == 0 && (b->rt->verify & (1u << b->appliance)))
			*st = check_sum(b, i);
		if (*st == -ENOLINK)
			b->link_died = true;
		if (*st == -EIO || *st == -EPROTO || *st == -EBADMSG || *st == -ENOLINK || *st == -EAGAIN) {
			xm_stat_add(b->rt, link_errors, 1);
			*st = -EINPROGRESS;
			again++;
		}
	}
	return again;
}

static void transfer_to_one(struct batch *b)
{
	struct xm_runtime *rt = b->rt;
	struct xm_backoff pause = { .deadline_ns = xm_now_ns() + lost_timeout(rt) };
	const char *why = "it answers, but transfers fail again and again";
	int again = 1, err, rc = 0;

	b->link = link_wait(rt, b->w, b->appliance, &err);
	for (int tries = 0; b->link && again && tries < TRANSIENT_TRIES;) {
		attempt(b);
		again = sort_out(b);
		if (!again)
			return;
		if (b->link->ops->state(b->link) < 0) {
			rc = xm_link_reconnect(b->link);
			if (rc < 0) {
				b->w->unfenced = true;
				why = "it answers, but its memory could not be reached in time";
				break;
			}
			xm_stat_add(rt, link_reconnects, 1);
			tries++;
		} else if (!b->link_died || !xm_backoff(&pause)) {
			/* else: the link is well (again); what it needs beside, the key of a slab, is not to be had just now */
			tries++;
		}
	}
	if (b->link)
		err = passes(rc) && xm_peer_state(rt->peer[b->appliance]) == 0 ? -ENOMEM : -ENOLINK;
	if (!b->link || xm_peer_state(rt->peer[b->appliance]) < 0)
		why = "it does not answer";
	if (err == -ENOLINK)
		xm_say_lost(rt, b->appliance, why);
	else
		xm_say_waits(rt, b->appliance);
	for (int i = 0; i < b->n; i++)
		if (is_due(b, i))
			b->status[i] = err;
}

/* Only the thread that uses the link may look at its figures, so it passes on what has been added. */
static void tell(const struct batch *b)
{
	struct xm_link_stats now;

	if (!b->link)
		return;
	b->link->ops->stats(b->link, &now);
	xm_link_stats_merge(&b->rt->me->stats.link[b->appliance], &now, &b->w->told[b->appliance]);
	b->w->told[b->appliance] = now;
}

static int count_due(const struct batch *b)
{
	int due = 0;

	for (int i = 0; i < b->n; i++)
		due += is_due(b, i);
	return due;
}

static void fetch_from_one(struct batch *b)
{
	int pages = count_due(b);

	XM_PROBE2(fetch_begin, pages, b->appliance);
	transfer_to_one(b);
	XM_PROBE2(fetch_end, pages, b->appliance);
}

static void transfer(struct batch *b)
{
	uint32_t seen = 0;
	uint64_t moved = 0;

	for (int i = 0; i < b->n; i++) {
		b->status[i] = b->slot[i] == XM_NO_SLOT ? 1 : -EINPROGRESS;
	}
	for (int i = 0; i < b->n; i++) {
		if (b->slot[i] == XM_NO_SLOT)
			continue;
		b->appliance = appliance_of(b->rt, b->slot[i]);
		if (seen & (1u << b->appliance))
			continue;
		seen |= 1u << b->appliance;
		if (b->write)
			transfer_to_one(b);
		else
			fetch_from_one(b);
		tell(b);
	}
	for (int i = 0; i < b->n; i++) {
		moved += b->status[i] == 0;
		if (b->status[i] > 0)
			b->status[i] = 0;
	}
	xm_add(b->write ? &b->rt->me->stats.written_bytes : &b->rt->me->stats.fetched_bytes, moved * XM_PAGE_SIZE);
}

void xm_remote_read(struct xm_runtime *rt, struct xm_worker *w, const uint64_t *slot, int32_t *status, int n)
{
	struct batch b = { .rt = rt, .w = w, .slot = slot, .status = status, .n = n };

	xm_worker_stage(rt, w, n);
	transfer(&b);
}

void xm_remote_write(struct xm_runtime *rt, struct xm_worker *w, const uint64_t *slot, int32_t *status, int n)
{
	struct batch b = { .rt = rt, .w = w, .slot = slot, .status = status, .n = n, .write = true };

	transfer(&b);
}

void *xm_remote_direct(struct xm_runtime *rt, struct xm_worker *w, uint64_t slot, int n, bool writing)
{
	unsigned a = appliance_of(rt, slot);
	struct xm_link *l;
	int err;

	if (rt->verify & (1u << a))
		return NULL;
	l = link_of(rt, w, a, &err);
	if (!l)
		return NULL;
	return l->ops->direct(l, xm_slot_slab(rt->fam, slot)->region, xm_slot_offset(rt->fam, slot),
			      (size_t)n * XM_PAGE_SIZE, writing);
}

/* ---- growth ------------------------------------------------------------------------------------------ */

/* The right to extend the book of slabs, between processes; a dead owner is replaced, also one that its parent has not
 * asked after yet. */
static bool grow_lock_family(struct xm_runtime *rt)
{
	int32_t seen = 0;

	if (__atomic_compare_exchange_n(&rt->fam->grow_owner, &seen, rt->pid, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return true;
	if (seen == rt->pid || !xm_pid_gone(seen))
		return false;
	return __atomic_compare_exchange_n(&rt->fam->grow_owner, &seen, rt->pid, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

static int add_slab(struct xm_family *f, unsigned a, uint64_t region, uint64_t index, uint64_t slab_bytes)
{
	uint32_t n = xm_load(&f->nslabs);
	struct xm_slab_desc *d = &f->slab[n];

	if (n == XM_MAX_SLABS)
		return -ENOMEM;
	d->appliance = (uint16_t)a;
	d->region = region;
	d->index = (uint32_t)index;
	d->slots = (uint32_t)xm_min(slab_bytes >> XM_PAGE_SHIFT, (uint64_t)XM_SLAB_SLOTS_MAX);
	__atomic_store_n(&d->free, d->slots, __ATOMIC_RELAXED);
	__atomic_store_n(&d->hint, 0, __ATOMIC_RELAXED);
	xm_store(&d->state, XM_SLAB_POOL);
	xm_store(&f->nslabs, n + 1);
	return 0;
}

/* How many slabs of the pool region on appliance a are already in the book. */
static uint64_t slabs_known(struct xm_family *f, unsigned a)
{
	uint64_t known = 0;

	for (uint32_t i = 0; i < xm_load(&f->nslabs); i++) {
		const struct xm_slab_desc *d = &f->slab[i];
		uint32_t state = xm_load(&d->state);

		/* LOST ones too: they are part of the region's size, and asking for less would cut it */
		if ((state == XM_SLAB_POOL || state == XM_SLAB_LOST) && d->appliance == a &&
		    d->region == f->region_id[a])
			known++;
	}
	return known;
}

static int grow_on(struct xm_runtime *rt, unsigned a)
{
	struct xm_family *f = rt->fam;
	struct xm_region_info info;
	struct xm_peer_info pi;
	uint64_t known = slabs_known(f, a);
	int rc;

	xm_peer_info(rt->peer[a], &pi);
	if (!f->region_id[a])
		rc = xm_peer_region_create(rt->peer[a], pi.slab_bytes, "", 0, &info);
	else
		rc = xm_peer_region_resize(rt->peer[a], f->region_id[a], (known + 1) * pi.slab_bytes, &info);
	if (rc < 0)
		return rc;
	f->region_id[a] = info.id;
	for (uint64_t i = known; i < info.size_bytes / pi.slab_bytes; i++) {
		rc = add_slab(f, a, info.id, i, pi.slab_bytes);
		if (rc < 0)
			return rc;
	}
	return info.size_bytes / pi.slab_bytes > known ? 0 : -ENOMEM;
}

int xm_remote_grow_lock(struct xm_runtime *rt)
{
	xm_lock(&rt->grow_lock);
	if (grow_lock_family(rt))
		return 0;
	xm_unlock(&rt->grow_lock);
	return -EBUSY;
}

void xm_remote_grow_unlock(struct xm_runtime *rt)
{
	xm_store(&rt->fam->grow_owner, 0);
	xm_unlock(&rt->grow_lock);
}

/* One appliance after the other. Full is what the last word of all that are not lost is; what else keeps one from answering
 * may pass. */
static int grow_on_any(struct xm_runtime *rt)
{
	int rc = -ENOMEM;

	for (unsigned a = 0; a < rt->fam->cfg.appliances; a++) {
		int one;

		if (!rt->peer[a] || xm_peer_state(rt->peer[a]) < 0)
			continue;
		one = grow_on(rt, a);
		if (one == 0)
			return 0;
		if (one != -ENOMEM && xm_peer_state(rt->peer[a]) == 0)
			rc = one;
	}
	return rc;
}

int xm_remote_grow(struct xm_runtime *rt)
{
	int rc = xm_remote_grow_lock(rt);

	if (rc < 0)
		return rc;
	if (xm_now_ns() >= rt->grow_not_before_ns) {
		rt->grow_answer = grow_on_any(rt);
		rt->grow_not_before_ns = rt->grow_answer < 0 ? xm_now_ns() + GROW_PAUSE_NS : 0;
	}
	rc = rt->grow_answer;
	xm_remote_grow_unlock(rt);
	return rc;
}

int xm_remote_find_room(struct xm_runtime *rt)
{
	int rc = xm_remote_grow(rt);

	if (rc != -EBUSY) /* else: another process asks, and nothing is known */
		xm_store(&rt->no_room, rc == -ENOMEM);
	return rc;
}

void xm_remote_lost(struct xm_runtime *rt, uint64_t slot)
{
	struct xm_slab_desc *d = xm_slot_slab(rt->fam, slot);
	uint32_t pool = XM_SLAB_POOL;

	if (xm_peer_state(rt->peer[d->appliance]) < 0)
		__atomic_compare_exchange_n(&d->state, &pool, XM_SLAB_LOST, false, __ATOMIC_ACQ_REL,
					    __ATOMIC_RELAXED);
}

/* ---- peers --------------------------------------------------------------------------------------------- */

static bool is_direct(const struct xm_family_config *cfg, unsigned a)
{
	return strncmp(cfg->appliance[a].uri, "shm:", 4) == 0 && !cfg->inject[0] && !cfg->verify;
}

int xm_remote_open(struct xm_runtime *rt, char *why)
{
	struct xm_family_config *cfg = &rt->fam->cfg;
	struct xm_peer_staging st;

	for (unsigned a = 0; a < cfg->appliances; a++) {
		struct xm_peer_config pc = {
			.uri = cfg->appliance[a].uri,
			.client_name = rt->me->comm,
			.session = cfg->appliance[a].session,
			.lost_timeout_ns = cfg->lost_timeout_ns,
			.inject = cfg->inject[0] ? cfg->inject : NULL,
			.place_fd = xm_fd_place,
		};
		int rc = xm_peer_open(&pc, &rt->peer[a], why);

		if (rc < 0)
			return rc;
		if (!is_direct(cfg, a))
			rt->verify |= 1u << a;
		if (strncmp(cfg->appliance[a].uri, "shm:", 4) != 0 || cfg->inject[0])
			rt->waits |= 1u << a;
		xm_peer_staging(rt->peer[a], &st);
		if (st.pinned)
			rt->staging = st;
	}
	return 0;
}

void xm_remote_close(struct xm_runtime *rt)
{
	for (int i = 0; i < XM_WORKERS_MAX; i++) {
		struct xm_worker *w = &rt->worker[i];

		for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++)
			if (w->link[a])
				w->link[a]->ops->close(w->link[a]);
		if (!w->huge)
			xm_local_free(w->staging, XM_STAGING_BYTES);
		memset(w, 0, sizeof(*w));
	}
	for (size_t i = 0; i < XM_ARRAY_SIZE(rt->huge); i++) {
		xm_local_free(rt->huge[i], XM_HUGE_BYTES);
		rt->huge[i] = NULL;
	}
	for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++) {
		xm_peer_close(rt->peer[a]);
		rt->peer[a] = NULL;
	}
}

int xm_remote_after_fork(struct xm_runtime *rt, char *why)
{
	int rc = 0;

	for (int i = 0; i < XM_WORKERS_MAX; i++) {
		struct xm_worker *w = &rt->worker[i];

		for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++) {
			if (w->link[a])
				xm_link_forget(w->link[a]);
			w->link[a] = NULL;
		}
		memset(w->told, 0, sizeof(w->told));
		w->busy = FREE;
		if (rt->staging.pinned) /* not inherited */
			w->staging = NULL;
		else if (w->staging) /* the parent's, copy-on-write */
			xm_sys_madvise(w->staging, XM_STAGING_BYTES, MADV_DONTNEED);
		w->staged = w->link_pages = 0;
		w->huge = w->lent = false;
	}
	memset(rt->huge, 0, sizeof(rt->huge));
	for (unsigned a = 0; a < XM_MAX_APPLIANCES && rc == 0; a++)
		if (rt->peer[a])
			rc = xm_peer_after_fork(rt->peer[a], why);
	return rc;
}

void xm_remote_tick(struct xm_runtime *rt)
{
	uint64_t messages = 0;

	for (unsigned a = 0; a < rt->fam->cfg.appliances; a++) {
		if (!rt->peer[a])
			continue;
		xm_peer_tick(rt->peer[a]);
		messages += xm_peer_control_messages(rt->peer[a]);
		if (xm_peer_state(rt->peer[a]) < 0)
			xm_say_lost(rt, a, "the connection is gone for good");
	}
	__atomic_store_n(&rt->me->stats.control_messages, messages, __ATOMIC_RELAXED);
}
