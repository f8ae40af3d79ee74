/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer_slabs.c - the slabs of all regions of a peer: mapped into this process (shm), or their keys (verbs); drawing:
 * peer_impl.h. Lookups run on any thread without a lock. Changes are made under the peer's mutex by whoever meets an
 * unmapped slab. Descriptors live only between recvmsg and mmap, so a small descriptor limit is enough.
 * Nothing allocates but mmap.
 */
#include "link/peer_impl.h"

#include "sys.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SLABS_MAX ((uint64_t)XM_CHUNK_SLABS * XM_REGION_CHUNKS)

/* Memory that one thread gave back, another may get at the same address. The kernel orders the two, but in calls made
 * directly the thread sanitizer does not see that. */
static unsigned handed_on; /* atomic */

void *xm_link_alloc(size_t bytes)
{
	void *p = xm_sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	__atomic_fetch_add(&handed_on, 1, __ATOMIC_ACQ_REL);
	return p;
}

void xm_link_release(void *p, size_t bytes)
{
	if (!p)
		return;
	__atomic_fetch_add(&handed_on, 1, __ATOMIC_ACQ_REL);
	xm_sys_munmap(p, bytes);
}

static unsigned slot_of(uint64_t region)
{
	return (unsigned)((region * 0x9e3779b97f4a7c15ull) >> 56) & (XM_PEER_REGIONS - 1);
}

/* What marks unused entries is no region's id. */
static bool is_region(uint64_t id)
{
	return id != 0 && id < XM_REGION_LEFT;
}

/* May an entry serve another region? Mutex held. */
static bool is_free(const struct xm_slab_table *t)
{
	return !is_region(t->id) &&
	       (t->id != XM_REGION_LEFT || xm_now_ns() - t->left_ns >= XM_REGION_REST_NS);
}

static struct xm_slab_table *find_region(struct xm_peer *p, uint64_t region)
{
	unsigned at = slot_of(region);

	if (!is_region(region))
		return NULL;
	for (unsigned i = 0; i < XM_PEER_REGIONS; i++) {
		struct xm_slab_table *t = &p->regions[(at + i) & (XM_PEER_REGIONS - 1)];
		uint64_t id = xm_load(&t->id);

		if (id == region)
			return t;
		if (id == 0)
			return NULL;
	}
	return NULL;
}

/* The chunk of a slab that is mapped or known, or NULL. */
static struct xm_chunk *find_chunk(struct xm_peer *p, uint64_t region, uint64_t slab)
{
	struct xm_slab_table *t = find_region(p, region);
	struct xm_chunk *c;

	if (!t || slab >= SLABS_MAX)
		return NULL;
	c = &t->chunks[slab / XM_CHUNK_SLABS];
	return xm_load(&c->mapped) >> (slab % XM_CHUNK_SLABS) & 1 ? c : NULL;
}

uint8_t *xm_peer_slab(struct xm_peer *p, uint64_t region, uint64_t slab, bool *writable)
{
	struct xm_chunk *c = find_chunk(p, region, slab);

	if (!c)
		return NULL;
	if (writable)
		*writable = !(xm_load(&c->read_only) >> (slab % XM_CHUNK_SLABS) & 1);
	return xm_load(&c->base) + ((slab % XM_CHUNK_SLABS) << p->slab_shift);
}

bool xm_peer_key(struct xm_peer *p, uint64_t region, uint64_t slab, struct xm_wire_key *out)
{
	struct xm_chunk *c = find_chunk(p, region, slab);
	struct xm_wire_key key;
	const struct xm_key *k;
	uint32_t seq;

	if (!c)
		return false;
	k = &xm_load(&c->key)[slab % XM_CHUNK_SLABS];
	seq = xm_load(&k->seq);
	/* who sees a part of a newer key sees also that seq has changed: each part is stored after it, and loaded before */
	key.addr = xm_load(&k->key.addr);
	key.rkey = xm_load(&k->key.rkey);
	key.rights = xm_load(&k->key.rights);
	if (seq & 1 || xm_load_relaxed(&k->seq) != seq)
		return false;
	*out = key;
	return true;
}

/* 0; -ENXIO; -ENOMEM: as many regions as can be, or more than that within a second. Mutex held. */
static int make_region(struct xm_peer *p, uint64_t region, struct xm_slab_table **out)
{
	struct xm_slab_table *t = find_region(p, region);
	unsigned at = slot_of(region);

	if (!is_region(region))
		return -ENXIO;
	for (unsigned i = 0; !t && i < XM_PEER_REGIONS; i++) {
		struct xm_slab_table *free_one = &p->regions[(at + i) & (XM_PEER_REGIONS - 1)];

		if (!is_free(free_one))
			continue;
		if (!free_one->chunks)
			free_one->chunks = xm_link_alloc(XM_REGION_CHUNKS * sizeof(struct xm_chunk));
		if (!free_one->chunks)
			return -ENOMEM;
		xm_store(&free_one->id, region);
		t = free_one;
	}
	if (!t)
		return -ENOMEM;
	*out = t;
	return 0;
}

/* Reserves the addresses of one chunk, aligned so that huge pages fit. */
static int reserve_chunk(struct xm_peer *p, struct xm_chunk *c)
{
	uint64_t slab_bytes = 1ull << p->slab_shift;
	uint64_t align = xm_min(slab_bytes, 1ull << 30);
	uint64_t bytes = slab_bytes * XM_CHUNK_SLABS;
	uint8_t *raw, *base;

	if (c->base)
		return 0;
	raw = xm_sys_mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!raw)
		return -ENOMEM;
	base = (uint8_t *)xm_round_up((uintptr_t)raw, align);
	if (base > raw)
		xm_sys_munmap(raw, (size_t)(base - raw));
	if (raw + align > base)
		xm_sys_munmap(base + bytes, (size_t)(raw + align - base));
	xm_store(&c->base, base);
	return 0;
}

static int map_one(struct xm_peer *p, struct xm_slab_table *t, uint64_t slab, int fd, bool write)
{
	struct xm_chunk *c = &t->chunks[slab / XM_CHUNK_SLABS];
	uint64_t bytes = 1ull << p->slab_shift, bit = 1ull << (slab % XM_CHUNK_SLABS);
	struct stat st;
	uint8_t *addr;
	int ret = reserve_chunk(p, c);

	if (ret < 0)
		return ret;
	/* one that somebody has cut short is there no more, however often it is handed out */
	if (xm_sys2(SYS_fstat, fd, &st) < 0 || (uint64_t)st.st_size < bytes)
		return -ENXIO;
	addr = c->base + ((slab % XM_CHUNK_SLABS) << p->slab_shift);
	/* first: who still believes that it may write meets an error, for writes are made by the kernel */
	xm_store(&c->read_only, write ? c->read_only & ~bit : c->read_only | bit);
	if (!xm_sys_mmap(addr, bytes, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, fd,
			 0))
		return -ENOMEM;
	xm_sys_madvise(addr, bytes, MADV_DONTDUMP); /* a core file is about this process's memory */
	__atomic_fetch_or(&c->mapped, bit, __ATOMIC_RELEASE);
	return 0;
}

static int note_key(struct xm_slab_table *t, uint64_t slab, const struct xm_wire_key *key)
{
	struct xm_chunk *c = &t->chunks[slab / XM_CHUNK_SLABS];
	struct xm_key *k;

	if (slab >= SLABS_MAX)
		return -EPROTO;
	if (!c->key)
		xm_store(&c->key, xm_link_alloc(XM_CHUNK_SLABS * sizeof(*k)));
	if (!c->key)
		return -ENOMEM;
	k = &c->key[slab % XM_CHUNK_SLABS];
	xm_store(&k->seq, k->seq | 1);
	xm_store(&k->key.addr, key->addr);
	xm_store(&k->key.rkey, key->rkey);
	xm_store(&k->key.rights, key->rights);
	xm_store(&k->seq, k->seq + 1);
	__atomic_fetch_or(&c->mapped, 1ull << (slab % XM_CHUNK_SLABS), __ATOMIC_RELEASE);
	return 0;
}

/* verbs: as fetch_slabs(), for keys */
static int fetch_keys(struct xm_peer *p, struct xm_slab_table *t, uint64_t first, uint64_t count)
{
	const struct xm_wire_keys *k = &p->rep.u.keys;
	int ret;

	xm_peer_request(p, XM_WIRE_SLAB_KEYS);
	p->req.u.slabs.region = t->id;
	p->req.u.slabs.first = first;
	p->req.u.slabs.count = xm_min(count, (uint64_t)XM_WIRE_KEYS);
	ret = xm_peer_call(p, NULL);
	if (ret == 0 && (k->first != first || !k->count || k->count > count))
		ret = -EPROTO;
	for (uint32_t i = 0; ret == 0 && i < k->count; i++)
		ret = note_key(t, first + i, &k->key[i]);
	return ret < 0 ? ret : (int)k->count;
}

/* Asks for slabs [first, first + count), maps those that came. Their number, or -errno. Mutex held. */
static int fetch_slabs(struct xm_peer *p, struct xm_slab_table *t, uint64_t first, uint64_t count)
{
	uint64_t region = t->id;
	struct xm_peer_fds fds = { 0 };
	int ret;

	if (p->uri.kind == XM_URI_VERBS)
		return fetch_keys(p, t, first, count);
	xm_peer_request(p, XM_WIRE_SLAB_MAP);
	p->req.u.slabs.region = region;
	p->req.u.slabs.first = first;
	p->req.u.slabs.count = xm_min(count, (uint64_t)XM_WIRE_FDS);
	ret = xm_peer_call(p, &fds);
	for (int i = 0; i < fds.n; i++) {
		if (ret >= 0 && (uint64_t)i < count) /* more than was asked for is not wanted */
			ret = map_one(p, t, first + (uint64_t)i, fds.fd[i],
				      p->rep.u.mapped.rights & XM_WIRE_RIGHT_WRITE);
		xm_sys_close(fds.fd[i]);
	}
	if (ret < 0)
		return ret;
	/* the kernel drops descriptors that this process has no room for */
	return fds.n ? fds.n : -EMFILE;
}

/* What an appliance's answer means to an operation. */
static int told(int ret)
{
	if (ret == -EUSERS)
		return -EACCES; /* others have as many keys as may be: nothing to wait for, they may keep them */
	return ret == -ENOENT ? -ENXIO : xm_min(ret, 0);
}

/* Asks for a slab that is not mapped, or known, or in any case. 0; as xm_peer_slab_map(). Mutex held. */
static int need_slab(struct xm_peer *p, uint64_t region, uint64_t slab, int refresh,
		     struct xm_slab_table **out)
{
	bool known = find_region(p, region) != NULL;
	int ret = slab < SLABS_MAX ? make_region(p, region, out) : -ENXIO;

	if (ret == 0 && (refresh || !find_chunk(p, region, slab)))
		ret = fetch_slabs(p, *out, slab, 1);
	if (ret < 0 && !known)
		xm_peer_region_gone(p, region); /* no room is kept for what there is not */
	else if (ret == -ENOENT)
		xm_peer_region_left(p, region);
	return told(ret);
}

int xm_peer_slab_map(struct xm_peer *p, uint64_t region, uint64_t slab, int refresh)
{
	struct xm_slab_table *t;
	int ret;

	pthread_mutex_lock(&p->mutex);
	ret = need_slab(p, region, slab, refresh, &t);
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

int xm_peer_key_get(struct xm_peer *p, uint64_t region, uint64_t slab, struct xm_wire_key *out)
{
	const struct xm_key *k = NULL;
	struct xm_slab_table *t;
	int ret;

	pthread_mutex_lock(&p->mutex);
	ret = need_slab(p, region, slab, 0, &t);
	if (ret == 0)
		k = &t->chunks[slab / XM_CHUNK_SLABS].key[slab % XM_CHUNK_SLABS];
	if (k && k->seq & 1) /* a thread of our parent's was writing it when we were made */
		ret = need_slab(p, region, slab, 1, &t);
	if (ret == 0)
		*out = k->key;
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

/* Has the table neither mappings nor keys? Mutex held. */
static bool is_empty(const struct xm_slab_table *t)
{
	for (unsigned i = 0; i < XM_REGION_CHUNKS; i++)
		if (t->chunks[i].mapped)
			return false;
	return true;
}

int xm_peer_region_attach(struct xm_peer *p, uint64_t region, uint64_t first, uint64_t count)
{
	struct xm_slab_table *t = NULL;
	uint64_t at = first;
	bool known;
	int ret;

	if (p->uri.kind == XM_URI_TCP)
		return 0;
	if (first > SLABS_MAX || count > SLABS_MAX - first)
		return -ENXIO;
	pthread_mutex_lock(&p->mutex);
	known = find_region(p, region) != NULL;
	ret = make_region(p, region, &t);
	while (ret >= 0 && at < first + count) {
		if (find_chunk(p, region, at)) {
			at++;
			continue;
		}
		ret = fetch_slabs(p, t, at, first + count - at);
		if (ret > 0)
			at += (uint64_t)ret;
	}
	if (ret < 0 && !known && t && is_empty(t)) /* else others use already what came before it failed */
		xm_peer_region_gone(p, region);
	else if (ret == -ENOENT)
		xm_peer_region_left(p, region);
	pthread_mutex_unlock(&p->mutex);
	ret = told(ret);
	if (ret == -EAGAIN && p->uri.kind == XM_URI_VERBS)
		ret = 0; /* the links will ask: before the first one the appliance does not know the device */
	return ret;
}

static void drop_one(struct xm_peer *p, struct xm_chunk *c, uint64_t slab)
{
	uint64_t index = slab % XM_CHUNK_SLABS;

	__atomic_fetch_and(&c->mapped, ~(1ull << index), __ATOMIC_ACQ_REL);
	if (c->base)
		xm_sys_mmap(c->base + (index << p->slab_shift), 1ull << p->slab_shift, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int xm_peer_key_refused(struct xm_peer *p, uint64_t region, uint64_t slab, const struct xm_wire_key *by)
{
	struct xm_chunk *c = find_chunk(p, region, slab);
	struct xm_wire_key now;
	int ret;

	if (c)
		__atomic_fetch_and(&c->mapped, ~(1ull << (slab % XM_CHUNK_SLABS)), __ATOMIC_ACQ_REL);
	ret = xm_peer_key_get(p, region, slab, &now);
	switch (ret) {
	case 0: return now.rkey == by->rkey && now.addr == by->addr ? -ENXIO : -ENOLINK;
	case -EAGAIN: return -ENOLINK;
	case -ENOLINK:
	case -EACCES:
	case -ENOMEM:
	case -EMFILE: return ret;
	default: return -ENXIO;
	}
}

void xm_peer_slabs_drop(struct xm_peer *p, uint64_t region, uint64_t first, uint64_t count)
{
	struct xm_slab_table *t = find_region(p, region);

	for (uint64_t slab = first; t && slab < SLABS_MAX && slab - first < count; slab++) {
		struct xm_chunk *c = &t->chunks[slab / XM_CHUNK_SLABS];
		uint64_t mapped = xm_load(&c->mapped);

		if (!mapped)
			slab |= XM_CHUNK_SLABS - 1; /* nothing in this chunk */
		else if (mapped >> (slab % XM_CHUNK_SLABS) & 1)
			drop_one(p, c, slab);
	}
}

static void end_region(struct xm_peer *p, uint64_t region, uint64_t mark)
{
	struct xm_slab_table *t = find_region(p, region);

	if (!t)
		return;
	xm_peer_slabs_drop(p, region, 0, UINT64_MAX);
	t->left_ns = xm_now_ns();
	xm_store(&t->id, mark);
}

void xm_peer_region_gone(struct xm_peer *p, uint64_t region)
{
	end_region(p, region, XM_REGION_GONE);
}

void xm_peer_region_left(struct xm_peer *p, uint64_t region)
{
	end_region(p, region, XM_REGION_LEFT);
}

void xm_peer_slabs_fini(struct xm_peer *p)
{
	for (unsigned r = 0; r < XM_PEER_REGIONS; r++) {
		struct xm_slab_table *t = &p->regions[r];

		if (!t->chunks)
			continue;
		for (unsigned i = 0; i < XM_REGION_CHUNKS; i++) {
			if (t->chunks[i].base)
				xm_sys_munmap(t->chunks[i].base, (size_t)XM_CHUNK_SLABS << p->slab_shift);
			xm_link_release(t->chunks[i].key, XM_CHUNK_SLABS * sizeof(struct xm_key));
		}
		xm_link_release(t->chunks, XM_REGION_CHUNKS * sizeof(struct xm_chunk));
		t->chunks = NULL;
		t->id = 0;
	}
}
