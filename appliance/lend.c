/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lend.c - regions and their slab tables.
 *
 *   slab[i]:  NULL promised, no memory yet --first use--> slab --drop--> XM_SLAB_HOLE --grown over again--> NULL
 *
 * Regions are changed on the control thread, looked up also on its workers and on the tcp thread. Each takes the
 * registry's mutex for the table alone: slabs that leave it are collected in a list and let go of afterwards, and a slab
 * that is missing is made without the mutex and put in if the place is still empty. Slabs of one session are let go of,
 * or get keys, on one thread at a time (serve_msg.c). Guests, who use a shared region of another session, get slabs and
 * keys of their own on their own workers (grant.h): they never look at a slab's domain, which is its owner's business.
 */
#include "appliance/grant.h"

#include "util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t wall_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static struct xm_region **bucket_of(struct xm_appliance *a, uint64_t id)
{
	return &a->bucket[id % XM_REGION_BUCKETS];
}

/* NULL: no such region. Mutex held. */
static struct xm_region *by_id(struct xm_appliance *a, uint64_t id)
{
	struct xm_region *r = *bucket_of(a, id);

	while (r && r->id != id)
		r = r->next_hash;
	return r;
}

/* The region if it exists and s may do this to it; mutex held. */
static int find(struct xm_appliance *a, struct xm_session *s, uint64_t id, enum xm_access_right right,
		struct xm_region **out)
{
	struct xm_region *r = by_id(a, id);
	int ret;

	if (!r)
		return -ENOENT;
	ret = xm_access_region(s, r, right);
	if (ret == 0)
		*out = r;
	return ret;
}

/* As s sees it. */
static void describe(const struct xm_appliance *a, const struct xm_session *s, const struct xm_region *r,
		     struct xm_wire_region *out)
{
	uint32_t uid = (uint32_t)r->session->uid;

	memset(out, 0, sizeof(*out));
	out->id = r->id;
	out->size_bytes = r->slabs * a->pool.kind.bytes;
	out->slabs = r->slabs;
	out->slabs_present = r->present;
	out->generation = r->generation;
	out->type = r->type;
	out->flags = r->flags;
	out->owner_session = r->session->index;
	memcpy(out->owner, &uid, sizeof(uid));
	out->created_ns = r->created_ns;
	out->modified_ns = r->modified_ns;
	memcpy(out->rules, r->rules, sizeof(out->rules));
	memcpy(out->name, r->name, sizeof(out->name));
	out->rights = xm_access_rights(s, r);
}

static void touch(struct xm_region *r)
{
	r->generation++;
	r->modified_ns = wall_clock_ns();
}

/* Takes slabs [first, end) out of the table. Mutex held. */
static void take_out(struct xm_region *r, uint64_t first, uint64_t end, struct xm_gone *gone)
{
	uint64_t freed = 0;

	*gone = (struct xm_gone){ .shared = r->type == XM_WIRE_REGION_SHARED };
	for (uint64_t i = first; i < end; i++) {
		struct xm_slab *s = r->slab[i];

		if (s == XM_SLAB_HOLE)
			continue;
		freed++;
		r->slab[i] = XM_SLAB_HOLE;
		if (!s)
			continue;
		xm_grant_detach_slab(s);
		gone->grants += s->grant_count;
		s->next = gone->list;
		gone->list = s;
	}
	gone->promises = freed;
	r->present -= freed;
	r->session->slabs -= freed;
}

/* The keys of guests to a slab that has been taken out: dead when this returns, or left to the pool's thread. Each holds
 * the slab, so that nobody gets its memory before. */
static void end_grants(struct xm_appliance *a, struct xm_slab *s, bool now)
{
	struct xm_grant *list = s->grants;

	s->grants = NULL;
	s->grant_count = 0;
	if (now)
		xm_grant_end(&a->pool, list);
	else
		xm_pool_revoke(&a->pool, list);
}

/* Lets go of what was taken out. now: before the caller answers. A few slabs are destroyed by then, or at least cut, so that
 * nobody who still maps them reads on: what a guest of a shared region has under way over tcp does not keep them for
 * other guests. Many slabs, or keys of guests, would take longer than the client waits, and go on the pool's thread, as do
 * all of a session that is over, which nobody waits for. */
static void let_go(struct xm_appliance *a, const struct xm_gone *gone, bool now)
{
	bool few = now && gone->promises <= XM_SLABS_NOW && gone->grants <= XM_SLABS_NOW;
	struct xm_slab *list = gone->list;
	uint64_t promises = gone->promises;

	while (list) {
		struct xm_slab *next = list->next;

		list->next = NULL;
		/* a key dies before the answer, also where a transfer over tcp keeps the slab; the pool's thread is trusted
		 * with those that nobody holds but guests' keys, which it takes back as well */
		if (few || (now && (unsigned)xm_load(&list->refs) > 1 + list->grant_count))
			xm_domain_deregister(list);
		end_grants(a, list, few);
		if (few && gone->shared && xm_load(&list->refs) > 1)
			xm_slab_cut(list);
		list->owes = true; /* the rest of the promises has no memory behind it and ends here */
		promises--;
		xm_slab_put(&a->pool, list, few);
		list = next;
	}
	xm_pool_release(&a->pool, promises);
}

void xm_lend_let_go(struct xm_appliance *a, const struct xm_gone *gone)
{
	let_go(a, gone, true);
}

static int slabs_for(const struct xm_appliance *a, uint64_t size_bytes, uint64_t *out)
{
	uint64_t unit = a->pool.kind.bytes;
	uint64_t n = size_bytes / unit + (size_bytes % unit != 0);

	if (n > XM_REGION_SLABS_MAX)
		return -EINVAL;
	*out = n;
	return 0;
}

/* Room in the table; new places are holes until promised. Mutex held. */
static int make_room(struct xm_region *r, uint64_t slabs)
{
	uint64_t room = xm_max(slabs, xm_min(r->room * 2, (uint64_t)XM_REGION_SLABS_MAX));
	struct xm_slab **table;

	if (slabs <= r->room)
		return 0;
	table = realloc(r->slab, room * sizeof(*table));
	if (!table)
		return -ENOMEM;
	for (uint64_t i = r->room; i < room; i++)
		table[i] = XM_SLAB_HOLE;
	r->slab = table;
	r->room = room;
	return 0;
}

static void extend(struct xm_region *r, uint64_t slabs)
{
	for (uint64_t i = r->slabs; i < slabs; i++)
		r->slab[i] = NULL;
	r->session->slabs += slabs - r->slabs;
	r->present += slabs - r->slabs;
	r->slabs = slabs;
}

static struct xm_region *find_nonce(struct xm_session *s, uint64_t nonce)
{
	struct xm_region *r = nonce ? s->regions : NULL;

	while (r && r->nonce != nonce)
		r = r->next;
	return r;
}

static struct xm_region *find_name(struct xm_session *s, const char *name)
{
	struct xm_region *r = name[0] ? s->regions : NULL;

	while (r && strcmp(r->name, name) != 0)
		r = r->next;
	return r;
}

static struct xm_region **shared_bucket(struct xm_appliance *a, const char *name)
{
	uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 0x100000001b3ull;
	return &a->shared[(hash ^ hash >> 32) % XM_REGION_BUCKETS];
}

static struct xm_region *find_shared(struct xm_appliance *a, const char *name)
{
	struct xm_region *r = *shared_bucket(a, name);

	while (r && strcmp(r->name, name) != 0)
		r = r->next_shared;
	return r;
}

static void insert(struct xm_appliance *a, struct xm_session *s, struct xm_region *r)
{
	struct xm_region **bucket;

	r->id = ++a->regions_ever;
	r->session = s;
	bucket = bucket_of(a, r->id);
	r->next_hash = *bucket;
	*bucket = r;
	r->next = s->regions;
	s->regions = r;
	s->region_count++;
	a->region_count++;
	if (r->type == XM_WIRE_REGION_SHARED) {
		bucket = shared_bucket(a, r->name);
		r->next_shared = *bucket;
		*bucket = r;
	}
}

static struct xm_region *make_region(const struct xm_wire_region_create *req, uint64_t slabs)
{
	struct xm_region *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	if (make_room(r, slabs) < 0) {
		free(r);
		return NULL;
	}
	r->type = req->type;
	r->flags = req->flags;
	r->nonce = req->nonce;
	memcpy(r->name, req->name, sizeof(r->name));
	memcpy(r->rules, req->rules, sizeof(r->rules));
	r->created_ns = r->modified_ns = wall_clock_ns();
	r->generation = 1;
	return r;
}

/* May the session have a region like this, as far as names and numbers go? Mutex held. */
static int check_room(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_region_create *req)
{
	if (find_name(s, req->name) || (req->type == XM_WIRE_REGION_SHARED && find_shared(a, req->name)))
		return -EEXIST;
	return s->region_count >= XM_SESSION_REGIONS_MAX ? -EUSERS : 0;
}

int xm_lend_create(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_region_create *req,
		   struct xm_wire_region *out)
{
	struct xm_region *r, *same;
	uint64_t slabs;
	int ret = slabs_for(a, req->size_bytes, &slabs);

	if (ret < 0 || !slabs || req->type > XM_WIRE_REGION_SHARED || req->flags ||
	    xm_access_check_rules(req->type, req->rules) < 0 ||
	    (req->type == XM_WIRE_REGION_SHARED && !req->name[0]))
		return -EINVAL;
	pthread_mutex_lock(&a->mutex);
	same = find_nonce(s, req->nonce);
	if (same) {
		describe(a, s, same, out);
		goto unlock;
	}
	ret = check_room(a, s, req);
	if (ret == 0)
		ret = xm_pool_promise(&a->pool, slabs);
	if (ret < 0)
		goto unlock;
	r = make_region(req, slabs);
	if (!r) {
		xm_pool_release(&a->pool, slabs);
		ret = -ENOMEM;
		goto unlock;
	}
	insert(a, s, r);
	extend(r, slabs);
	describe(a, s, r, out);
unlock:
	pthread_mutex_unlock(&a->mutex);
	return ret;
}

int xm_lend_open(struct xm_appliance *a, struct xm_session *s, const char *name, bool others,
		 struct xm_wire_region *out)
{
	struct xm_region *r = NULL;
	int ret;

	pthread_mutex_lock(&a->mutex);
	r = find_name(s, name);
	if (!r && others)
		r = find_shared(a, name);
	ret = r ? xm_access_region(s, r, XM_ACCESS_METADATA_READ) : -ENOENT;
	if (ret == 0)
		describe(a, s, r, out);
	pthread_mutex_unlock(&a->mutex);
	return ret;
}

static int grow(struct xm_appliance *a, struct xm_region *r, uint64_t slabs)
{
	uint64_t more = slabs - r->slabs;
	int ret = xm_pool_promise(&a->pool, more);

	if (ret < 0)
		return ret;
	/* second: who is refused shall not have had a table made of any size it names */
	ret = make_room(r, slabs);
	if (ret < 0)
		xm_pool_release(&a->pool, more);
	else
		extend(r, slabs);
	return ret;
}

int xm_lend_resize(struct xm_appliance *a, struct xm_session *s, uint64_t id, uint64_t size_bytes,
		   struct xm_gone *gone, struct xm_wire_region *out)
{
	struct xm_region *r = NULL;
	uint64_t slabs;
	int ret = slabs_for(a, size_bytes, &slabs);

	*gone = (struct xm_gone){ 0 };
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&a->mutex);
	ret = find(a, s, id, XM_ACCESS_METADATA_WRITE, &r);
	if (ret == 0 && slabs > r->slabs) {
		ret = grow(a, r, slabs);
	} else if (ret == 0) {
		take_out(r, slabs, r->slabs, gone);
		r->slabs = slabs;
	}
	if (ret == 0) {
		touch(r);
		describe(a, s, r, out);
	}
	pthread_mutex_unlock(&a->mutex);
	return ret;
}

int xm_lend_drop(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_slabs *req,
		 struct xm_gone *gone, struct xm_wire_region *out)
{
	struct xm_region *r = NULL;
	int ret;

	*gone = (struct xm_gone){ 0 };
	pthread_mutex_lock(&a->mutex);
	ret = find(a, s, req->region, XM_ACCESS_METADATA_WRITE, &r);
	if (ret == 0 && (req->first > r->slabs || req->count > r->slabs - req->first))
		ret = -EINVAL;
	if (ret == 0) {
		take_out(r, req->first, req->first + req->count, gone);
		touch(r);
		describe(a, s, r, out);
	}
	pthread_mutex_unlock(&a->mutex);
	return ret;
}

static void unhash(struct xm_appliance *a, struct xm_region *r)
{
	struct xm_region **at = bucket_of(a, r->id);

	while (*at != r)
		at = &(*at)->next_hash;
	*at = r->next_hash;
	if (r->type == XM_WIRE_REGION_SHARED) {
		for (at = shared_bucket(a, r->name); *at != r;)
			at = &(*at)->next_shared;
		*at = r->next_shared;
	}
	a->region_count--;
	r->session->region_count--;
}

int xm_lend_free(struct xm_appliance *a, struct xm_session *s, uint64_t id, struct xm_gone *gone)
{
	struct xm_region *r = NULL, **at;
	int ret;

	*gone = (struct xm_gone){ 0 };
	pthread_mutex_lock(&a->mutex);
	ret = find(a, s, id, XM_ACCESS_METADATA_WRITE, &r);
	if (ret < 0) {
		pthread_mutex_unlock(&a->mutex);
		return ret;
	}
	for (at = &r->session->regions; *at != r;)
		at = &(*at)->next;
	*at = r->next;
	unhash(a, r);
	take_out(r, 0, r->slabs, gone);
	pthread_mutex_unlock(&a->mutex);
	free(r->slab);
	free(r);
	return 0;
}

int xm_lend_info(struct xm_appliance *a, struct xm_session *s, uint64_t id, struct xm_wire_region *out)
{
	struct xm_region *r = NULL;
	int ret;

	pthread_mutex_lock(&a->mutex);
	ret = find(a, s, id, XM_ACCESS_METADATA_READ, &r);
	if (ret == 0)
		describe(a, s, r, out);
	pthread_mutex_unlock(&a->mutex);
	return ret;
}

/* The session's region with the smallest id above `after`; mutex held. */
static struct xm_region *next_region(struct xm_session *s, uint64_t after)
{
	struct xm_region *best = NULL;

	for (struct xm_region *r = s->regions; r; r = r->next)
		if (r->id > after && (!best || r->id < best->id))
			best = r;
	return best;
}

void xm_lend_list(struct xm_appliance *a, struct xm_session *s, uint64_t after,
		  struct xm_wire_region_list *out)
{
	struct xm_region *r = NULL;

	out->count = 0;
	pthread_mutex_lock(&a->mutex);
	while (out->count < XM_WIRE_LIST && (r = next_region(s, after))) {
		describe(a, s, r, &out->region[out->count++]);
		after = r->id;
	}
	out->more = next_region(s, after) != NULL;
	pthread_mutex_unlock(&a->mutex);
}

struct xm_region *xm_lend_detach_all(struct xm_appliance *a, struct xm_session *s)
{
	struct xm_region *list = s->regions;

	for (struct xm_region *r = list; r; r = r->next)
		unhash(a, r);
	s->region_count = 0;
	s->regions = NULL;
	return list;
}

void xm_lend_dispose(struct xm_appliance *a, struct xm_region *list)
{
	while (list) {
		struct xm_region *r = list;
		bool shared = r->type == XM_WIRE_REGION_SHARED; /* its slabs' grants are in lists of guests */
		struct xm_gone gone;

		if (shared)
			pthread_mutex_lock(&a->mutex);
		take_out(r, 0, r->slabs, &gone);
		if (shared)
			pthread_mutex_unlock(&a->mutex);
		list = r->next;
		let_go(a, &gone, false);
		free(r->slab);
		free(r);
	}
}

/* ---- data --------------------------------------------------------------------------------------------- */

/* A place in a region's table, and what for. */
struct place {
	uint64_t region, slab;
	enum xm_access_right right;
};

/* The slab at this place with a reference. 0; 1: promised, has to be made; -errno as locate. Mutex held. */
static int lookup(struct xm_appliance *a, struct xm_session *s, const struct place *at, struct xm_slab **out)
{
	struct xm_region *r = NULL;
	int ret = find(a, s, at->region, at->right, &r);

	if (ret < 0)
		return ret == -ENOENT ? -ENXIO : ret;
	if (at->slab >= r->slabs || r->slab[at->slab] == XM_SLAB_HOLE)
		return -ENXIO;
	if (!r->slab[at->slab])
		return 1;
	*out = r->slab[at->slab];
	xm_slab_get(*out);
	return 0;
}

/* For whom a new slab may be warm: a guest's domain could write to one that is registered there, whatever the rules say.
 * A reference, or NULL. */
static struct xm_domain *domain_for(struct xm_appliance *a, struct xm_session *s, const struct place *at)
{
	struct xm_domain *d = NULL;
	struct xm_region *r = NULL;

	pthread_mutex_lock(&a->mutex);
	if (find(a, s, at->region, at->right, &r) == 0 && r->session == s)
		d = xm_domain_get(s->domain);
	pthread_mutex_unlock(&a->mutex);
	return d;
}

/* Makes the slab that lookup() found missing, unless somebody else has meanwhile. No lock held. */
static int materialise(struct xm_appliance *a, struct xm_session *s, const struct place *at, bool populate)
{
	struct xm_slab *made, *found = NULL;
	struct xm_domain *domain = domain_for(a, s, at);
	struct xm_region *r = NULL;
	int ret = xm_pool_take(&a->pool, domain, populate, &made);

	xm_domain_put(domain);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&a->mutex);
	ret = lookup(a, s, at, &found);
	if (ret == 1) {
		find(a, s, at->region, at->right, &r);
		r->slab[at->slab] = made;
		made = NULL;
		ret = 0;
	}
	pthread_mutex_unlock(&a->mutex);
	if (found)
		xm_slab_put(&a->pool, found, false);
	if (made)
		xm_slab_put(&a->pool, made, false);
	return ret;
}

static int get_slab(struct xm_appliance *a, struct xm_session *s, const struct place *at, bool populate,
		    struct xm_slab **out)
{
	int ret;

	do {
		pthread_mutex_lock(&a->mutex);
		ret = lookup(a, s, at, out);
		pthread_mutex_unlock(&a->mutex);
		if (ret != 1)
			return ret;
		ret = materialise(a, s, at, populate);
	} while (ret == 0);
	return ret;
}

uint32_t xm_lend_rights(struct xm_appliance *a, const struct xm_session *s, uint64_t id, uint64_t index,
			const struct xm_slab *slab)
{
	const struct xm_region *r = by_id(a, id);

	if (!r || index >= r->slabs || r->slab[index] != slab)
		return 0;
	return xm_access_rights(s, r);
}

static bool exists(struct xm_appliance *a, uint64_t id)
{
	bool found;

	pthread_mutex_lock(&a->mutex);
	found = by_id(a, id) != NULL;
	pthread_mutex_unlock(&a->mutex);
	return found;
}

int xm_lend_get_slabs(struct xm_appliance *a, struct xm_session *s, const struct xm_wire_slabs *req,
		      struct xm_slab **out, unsigned max, uint32_t *rights)
{
	struct place at = { req->region, req->first, XM_ACCESS_DATA_READ };
	unsigned n = (unsigned)xm_min(req->count, (uint64_t)max);
	unsigned have = 1;
	int ret;

	if (!n || req->first >= XM_REGION_SLABS_MAX)
		return n ? -ENXIO : -EINVAL;
	ret = get_slab(a, s, &at, true, &out[0]);
	if (ret < 0)
		return ret == -ENXIO && !exists(a, req->region) ? -ENOENT : ret;
	pthread_mutex_lock(&a->mutex);
	*rights = xm_lend_rights(a, s, req->region, req->first, out[0]);
	for (at.slab++; *rights && have < n && lookup(a, s, &at, &out[have]) == 0; at.slab++)
		have++;
	pthread_mutex_unlock(&a->mutex);
	if (*rights)
		return (int)have;
	xm_slab_put(&a->pool, out[0], false); /* somebody else has freed it meanwhile */
	return -ENXIO;
}

int xm_lend_locate(struct xm_appliance *a, struct xm_session *s, const struct xm_extent *e,
		   struct xm_segment out[XM_SEGMENTS])
{
	uint64_t unit = a->pool.kind.bytes, off = e->off;
	uint32_t len = e->len;
	int n = 0;

	if (off + len < off)
		return -ENXIO;
	while (len) {
		struct place place = { e->region, off / unit, e->right };
		struct xm_segment *seg = &out[n];
		uint64_t at = off % unit;
		int ret = get_slab(a, s, &place, false, &seg->slab);

		if (ret < 0) {
			while (n--)
				xm_slab_put(&a->pool, out[n].slab, false);
			return ret;
		}
		seg->addr = seg->slab->addr + at;
		seg->len = (uint32_t)xm_min((uint64_t)len, unit - at);
		off += seg->len;
		len -= seg->len;
		n++;
	}
	return n;
}
