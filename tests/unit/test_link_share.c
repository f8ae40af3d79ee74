/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link_share.c - regions that other sessions use, over every transport: what a guest may do, what it is told when it
 * may not, and what becomes of it when the owner takes its memory back or goes.
 */
#include "tests/unit/link_fixture.h"

#include <sys/uio.h>

#define SLABS 3u
#define MARK 0x5a

struct pair {
	struct fixture owner, guest; /* the guest's region is the owner's */
};

static const struct xm_region_rule may_read = { .who = XM_RULE_ANYBODY, .rights = XM_RIGHT_READ };
static const struct xm_region_rule may_write = { .who = XM_RULE_ANYBODY,
						 .rights = XM_RIGHT_READ | XM_RIGHT_WRITE };

static void enter(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->peer = rig_peer(uri());
	assert_int_equal(xm_link_open(f->peer, &f->link), 0);
}

static void leave(struct fixture *f)
{
	f->link->ops->close(f->link);
	xm_peer_close(f->peer);
}

static void share(struct fixture *f, const char *name, const struct xm_region_rule *rule)
{
	static uint8_t page[PAGE];

	enter(f);
	assert_int_equal(xm_peer_region_create_shared(f->peer, SLABS * RIG_SLAB, name, rule, 1, &f->region),
			 0);
	memset(page, MARK, PAGE);
	for (unsigned i = 0; i < SLABS; i++)
		assert_int_equal(put(f->link, page, PAGE, f->region.id, i * RIG_SLAB), 0);
}

static void open_pair(struct pair *p, const struct xm_region_rule *rule)
{
	share(&p->owner, "ours", rule);
	enter(&p->guest);
	assert_int_equal(xm_peer_region_open(p->guest.peer, "ours", &p->guest.region), 0);
	assert_int_equal(p->guest.region.id, p->owner.region.id);
}

static bool nothing_is_left(void)
{
	struct xm_appliance_stat st = rig_stat(&rig);

	return st.regions == 0 && st.slabs_used == 0 && st.free_bytes == st.total_bytes &&
	       st.slabs_backed * st.slab_bytes == st.warm_bytes;
}

static void close_pair(struct pair *p)
{
	leave(&p->guest);
	leave(&p->owner);
	rig_until(nothing_is_left());
}

/* Status of a read of one byte; MARK is what it found, if anything. */
static int look(const struct fixture *f, uint64_t off)
{
	uint8_t byte = 0;
	int ret = get(f->link, &byte, 1, f->region.id, off);

	if (ret == 0)
		assert_int_equal(byte, MARK);
	return ret;
}

static int cas(const struct fixture *f, uint64_t off, uint64_t expect, uint64_t desired, uint64_t *before)
{
	int ret = f->link->ops->cas(f->link, f->region.id, off, expect, desired, 7);
	struct xm_completion c;

	assert_int_equal(ret, 0);
	c = one_completion(f->link);
	*before = c.value;
	return c.status;
}

static int faa(const struct fixture *f, uint64_t off, uint64_t add, uint64_t *before)
{
	int ret = f->link->ops->faa(f->link, f->region.id, off, add, 8);
	struct xm_completion c;

	assert_int_equal(ret, 0);
	c = one_completion(f->link);
	*before = c.value;
	return c.status;
}

/* ---- rights -------------------------------------------------------------------------------------------- */

static void test_reader_when_it_reads_then_finds_what_the_owner_wrote(void **unused)
{
	static uint8_t data[5 * PAGE], back[5 * PAGE];
	const uint64_t off = RIG_SLAB - 2 * PAGE + 5; /* over a slab's end */
	struct pair p;

	open_pair(&p, &may_read);
	assert_int_equal(p.owner.region.type, XM_REGION_SHARED);
	assert_int_equal(p.owner.region.rights, XM_RIGHT_READ | XM_RIGHT_WRITE | XM_RIGHT_MANAGE);
	assert_int_equal(p.guest.region.type, XM_REGION_SHARED);
	assert_int_equal(p.guest.region.rights, XM_RIGHT_READ);
	assert_string_equal(p.guest.region.name, "ours");
	for (unsigned i = 0; i < 3; i++) {
		fill(data, sizeof(data), seed + i);
		assert_int_equal(put(p.owner.link, data, sizeof(data), p.owner.region.id, off), 0);
		assert_int_equal(get(p.guest.link, back, sizeof(back), p.guest.region.id, off), 0);
		assert_memory_equal(back, data, sizeof(data));
	}
	close_pair(&p);
}

static void test_reader_when_it_writes_then_is_refused_and_its_link_lives_on(void **unused)
{
	static uint8_t page[2 * PAGE], before[SLABS][PAGE], now[PAGE];
	struct xm_link_stats st;
	uint64_t value;
	struct pair p;

	open_pair(&p, &may_read);
	for (unsigned i = 0; i < SLABS; i++)
		assert_int_equal(get(p.owner.link, before[i], PAGE, p.owner.region.id, i * RIG_SLAB), 0);
	for (unsigned mapped = 0; mapped < 2; mapped++) { /* before it has read anything, and afterwards */
		memset(page, 0x33, sizeof(page));
		assert_int_equal(put(p.guest.link, page, PAGE, p.guest.region.id, 0), -EACCES);
		assert_int_equal(put(p.guest.link, page, 2 * PAGE, p.guest.region.id, RIG_SLAB - PAGE),
				 -EACCES);
		assert_int_equal(cas(&p.guest, 2 * RIG_SLAB, 0x5a5a5a5a5a5a5a5aull, 1, &value), -EACCES);
		assert_int_equal(faa(&p.guest, 2 * RIG_SLAB + 8, 1, &value), -EACCES);
		for (unsigned i = 0; i < SLABS; i++)
			assert_int_equal(look(&p.guest, i * RIG_SLAB), 0);
	}
	p.guest.link->ops->stats(p.guest.link, &st);
	assert_int_equal(st.reconnects, 0);
	assert_int_equal(st.errors, 8);
	for (unsigned i = 0; i < SLABS; i++) {
		assert_int_equal(get(p.owner.link, now, PAGE, p.owner.region.id, i * RIG_SLAB), 0);
		assert_memory_equal(now, before[i], PAGE);
	}
	close_pair(&p);
}

/* What is written is written in flight together with what may be done. */
static void test_reader_when_refused_amid_reads_then_the_reads_are_answered(void **unused)
{
	static uint8_t page[PAGE], to[8][PAGE];
	struct iovec iov = { page, PAGE };
	struct pair p;

	open_pair(&p, &may_read);
	for (uint64_t i = 0; i < 16; i++) {
		int ret = i % 2 ? p.guest.link->ops->writev(p.guest.link, &iov, 1, p.guest.region.id, 0, i)
				: p.guest.link->ops->read(p.guest.link, to[i / 2], PAGE, p.guest.region.id, 0,
							  i);

		assert_int_equal(ret, 0);
	}
	for (unsigned i = 0; i < 16; i++) {
		struct xm_completion c = one_completion(p.guest.link);

		assert_int_equal(c.status, c.cookie % 2 ? -EACCES : 0);
	}
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(to[i][0], MARK);
	close_pair(&p);
}

static void test_writer_when_it_writes_then_the_owner_sees_it(void **unused)
{
	static uint8_t data[2 * PAGE], back[2 * PAGE];
	uint64_t value, mark = 0x5a5a5a5a5a5a5a5aull;
	struct pair p;

	open_pair(&p, &may_write);
	assert_int_equal(p.guest.region.rights, XM_RIGHT_READ | XM_RIGHT_WRITE);
	fill(data, sizeof(data), seed);
	assert_int_equal(put(p.guest.link, data, sizeof(data), p.guest.region.id, RIG_SLAB - PAGE), 0);
	assert_int_equal(get(p.owner.link, back, sizeof(back), p.owner.region.id, RIG_SLAB - PAGE), 0);
	assert_memory_equal(back, data, sizeof(data));
	assert_int_equal(cas(&p.guest, 0, mark, 40, &value), 0);
	assert_int_equal(value, mark);
	assert_int_equal(cas(&p.owner, 0, mark, 41, &value), 0); /* the guest was first */
	assert_int_equal(value, 40);
	assert_int_equal(faa(&p.owner, 0, 1, &value), 0);
	assert_int_equal(faa(&p.guest, 0, 1, &value), 0);
	assert_int_equal(value, 41);
	assert_int_equal(get(p.owner.link, &value, sizeof(value), p.owner.region.id, 0), 0);
	assert_int_equal(value, 42);
	close_pair(&p);
}

/* Memory that the owner has never touched: the guest's first use makes it, and it is the owner's all the same. */
static void test_writer_when_it_is_first_at_a_slab_then_the_owner_has_the_same(void **unused)
{
	struct fixture owner, guest;
	uint8_t byte = MARK;

	enter(&owner);
	enter(&guest);
	assert_int_equal(xm_peer_region_create_shared(owner.peer, SLABS * RIG_SLAB, "ours", &may_write, 1,
						      &owner.region),
			 0);
	assert_int_equal(xm_peer_region_open(guest.peer, "ours", &guest.region), 0);
	assert_int_equal(xm_peer_region_attach(guest.peer, guest.region.id, 0, 1), 0);
	assert_int_equal(get(guest.link, &byte, 1, guest.region.id, RIG_SLAB), 0);
	assert_int_equal(byte, 0);
	byte = MARK;
	assert_int_equal(put(guest.link, &byte, 1, guest.region.id, RIG_SLAB), 0);
	assert_int_equal(look(&owner, RIG_SLAB), 0);
	assert_int_equal(rig_stat(&rig).slabs_used, SLABS);
	leave(&guest);
	assert_int_equal(look(&owner, RIG_SLAB), 0);
	leave(&owner);
	rig_until(nothing_is_left());
}

static void test_guest_when_it_manages_then_is_refused(void **unused)
{
	struct xm_region_info info;
	struct pair p;

	open_pair(&p, &may_write);
	assert_int_equal(xm_peer_region_resize(p.guest.peer, p.guest.region.id, RIG_SLAB, &info), -EACCES);
	assert_int_equal(xm_peer_region_resize(p.guest.peer, p.guest.region.id, 9 * RIG_SLAB, &info),
			 -EACCES);
	assert_int_equal(xm_peer_region_drop_slabs(p.guest.peer, p.guest.region.id, 0, 1), -EACCES);
	assert_int_equal(xm_peer_region_free(p.guest.peer, p.guest.region.id), -EACCES);
	assert_int_equal(xm_peer_region_info(p.guest.peer, p.guest.region.id, &info), 0);
	assert_int_equal(info.slabs_present, SLABS);
	assert_int_equal(info.rights, XM_RIGHT_READ | XM_RIGHT_WRITE);
	for (unsigned i = 0; i < SLABS; i++)
		assert_int_equal(look(&p.owner, i * RIG_SLAB), 0);
	close_pair(&p);
}

static void assert_stranger(const struct fixture *owner, const struct fixture *s)
{
	struct xm_region_info info;
	uint8_t byte = 1;
	uint64_t value;

	assert_int_equal(xm_peer_region_open(s->peer, owner->region.name, &info), -EACCES);
	assert_int_equal(xm_peer_region_info(s->peer, owner->region.id, &info), -EACCES);
	assert_int_equal(get(s->link, &byte, 1, owner->region.id, 0), -EACCES);
	assert_int_equal(put(s->link, &byte, 1, owner->region.id, 0), -EACCES);
	assert_int_equal(cas(&(struct fixture){ s->peer, s->link, owner->region }, 0, 0, 1, &value), -EACCES);
	assert_int_equal(look(owner, 0), 0);
}

static void test_user_when_a_rule_names_it_then_it_has_come_by_shm(void **unused)
{
	struct xm_region_rule rules[] = {
		{ .who = XM_RULE_USER, .uid = getuid(), .rights = XM_RIGHT_READ },
		{ .who = XM_RULE_USER, .uid = UINT32_MAX, .rights = XM_RIGHT_READ }
	};
	struct fixture owner, guest;

	share(&owner, "mine", &rules[0]);
	enter(&guest);
	if (use_tcp || use_verbs) {
		assert_stranger(&owner, &guest);
	} else {
		assert_int_equal(xm_peer_region_open(guest.peer, "mine", &guest.region), 0);
		assert_int_equal(guest.region.rights, XM_RIGHT_READ);
		assert_int_equal(look(&guest, 0), 0);
	}
	leave(&owner);
	share(&owner, "nobody's", &rules[1]); /* that is what a client is whose user is not known */
	assert_stranger(&owner, &guest);
	leave(&guest);
	leave(&owner);
	rig_until(nothing_is_left());
}

/* Who attaches by the token comes from anywhere, so the session is nobody's in particular from then on. */
static void test_user_when_somebody_attaches_over_tcp_then_is_none(void **unused)
{
	struct xm_region_rule rule = { .who = XM_RULE_USER, .uid = getuid(), .rights = XM_RIGHT_READ };
	struct xm_peer_config cfg = { .uri = rig.tcp };
	struct fixture owner, guest;
	struct xm_region_info r;
	struct xm_peer_info info;
	struct xm_peer *q;

	if (use_tcp || use_verbs)
		skip();
	share(&owner, "mine", &rule);
	enter(&guest);
	assert_int_equal(xm_peer_region_open(guest.peer, "mine", &r), 0);
	xm_peer_info(guest.peer, &info);
	cfg.session = info.session;
	assert_int_equal(xm_peer_open(&cfg, &q, NULL), 0);
	assert_int_equal(xm_peer_region_open(q, "mine", &r), -EACCES);
	assert_int_equal(xm_peer_region_open(guest.peer, "mine", &r), -EACCES);
	xm_peer_close(q);
	assert_int_equal(xm_peer_region_open(guest.peer, "mine", &r), -EACCES);
	leave(&guest);
	leave(&owner);
	rig_until(nothing_is_left());
}

/* ---- names --------------------------------------------------------------------------------------------- */

static void test_name_when_it_is_taken_then_depends_on_by_whom(void **unused)
{
	struct xm_region_info r;
	struct fixture owner, guest;

	share(&owner, "heap", &may_read);
	enter(&guest);
	assert_int_equal(xm_peer_region_create_shared(guest.peer, RIG_SLAB, "heap", &may_read, 1, &r),
			 -EEXIST);
	assert_int_equal(xm_peer_region_create_shared(owner.peer, RIG_SLAB, "heap", &may_read, 1, &r),
			 -EEXIST);
	assert_int_equal(xm_peer_region_create(owner.peer, RIG_SLAB, "heap", 0, &r), -EEXIST);
	assert_int_equal(xm_peer_region_create(guest.peer, RIG_SLAB, "heap", 0, &guest.region), 0);
	assert_int_equal(guest.region.type, XM_REGION_PRIVATE);
	assert_int_equal(xm_peer_region_open(guest.peer, "heap", &r), 0); /* one's own first */
	assert_int_equal(r.id, guest.region.id);
	assert_int_equal(r.rights, XM_RIGHT_READ | XM_RIGHT_WRITE | XM_RIGHT_MANAGE);
	assert_int_equal(xm_peer_region_free(guest.peer, guest.region.id), 0);
	assert_int_equal(xm_peer_region_open(guest.peer, "heap", &r), 0);
	assert_int_equal(r.id, owner.region.id);
	assert_int_equal(xm_peer_region_open(guest.peer, "hea", &r), -ENOENT);
	assert_int_equal(xm_peer_region_free(owner.peer, owner.region.id), 0);
	assert_int_equal(xm_peer_region_open(guest.peer, "heap", &r), -ENOENT);
	assert_int_equal(xm_peer_region_create_shared(guest.peer, RIG_SLAB, "heap", &may_read, 1, &r), 0);
	leave(&guest);
	leave(&owner);
	rig_until(nothing_is_left());
}

static void test_rules_that_cannot_be_are_refused(void **unused)
{
	static const struct xm_region_rule bad[] = {
		{ .who = XM_RULE_ANYBODY, .rights = XM_RIGHT_WRITE },
		{ .who = XM_RULE_ANYBODY, .rights = 0 },
		{ .who = XM_RULE_ANYBODY, .rights = XM_RIGHT_READ | XM_RIGHT_MANAGE },
		{ .who = XM_RULE_USER + 1, .rights = XM_RIGHT_READ },
		{ .rights = XM_RIGHT_READ },
		{ .rights = 0 },
	};
	struct xm_region_rule all[XM_REGION_RULES_MAX + 1];
	struct xm_region_info r;
	struct xm_peer *p = rig_peer(uri());

	for (unsigned i = 0; i < XM_ARRAY_SIZE(bad); i++)
		assert_int_equal(xm_peer_region_create_shared(p, RIG_SLAB, "x", &bad[i], 1, &r), -EINVAL);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(all); i++)
		all[i] = (struct xm_region_rule){ XM_RULE_USER, i, XM_RIGHT_READ };
	assert_int_equal(xm_peer_region_create_shared(p, RIG_SLAB, "x", all, 0, &r), -EINVAL);
	assert_int_equal(xm_peer_region_create_shared(p, RIG_SLAB, "x", all, XM_REGION_RULES_MAX + 1, &r),
			 -EINVAL);
	assert_int_equal(xm_peer_region_create_shared(p, RIG_SLAB, "", all, 1, &r), -EINVAL);
	assert_int_equal(xm_peer_region_create_shared(p, RIG_SLAB, NULL, all, 1, &r), -EINVAL);
	assert_int_equal(xm_peer_region_create_shared(p, 0, "x", all, 1, &r), -EINVAL);
	assert_int_equal(xm_peer_region_create_shared(p, RIG_SLAB, "x", all, XM_REGION_RULES_MAX, &r), 0);
	xm_peer_close(p);
	rig_until(nothing_is_left());
}

/* A client has room for 256 regions: what it asks for in vain takes none. */
static void test_regions_that_are_not_there_when_asked_for_then_take_no_room(void **unused)
{
	uint8_t byte = MARK;
	struct fixture f;

	enter(&f);
	for (uint64_t id = 1; id <= 700; id++) {
		assert_int_equal(get(f.link, &byte, 1, 1ull << 40 | id, 0), -ENXIO);
		assert_int_equal(xm_peer_region_attach(f.peer, 1ull << 41 | id, 0, 1), use_tcp ? 0 : -ENXIO);
	}
	byte = MARK;
	assert_int_equal(xm_peer_region_create(f.peer, RIG_SLAB, NULL, 0, &f.region), 0);
	assert_int_equal(put(f.link, &byte, 1, f.region.id, 0), 0);
	assert_int_equal(look(&f, 0), 0);
	leave(&f);
	rig_until(nothing_is_left());
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

static void test_owner_when_it_takes_slabs_back_then_the_guest_is_told(void **unused)
{
	struct xm_region_info r;
	uint8_t byte = 0;
	struct pair p;

	open_pair(&p, &may_write);
	for (unsigned i = 0; i < SLABS; i++)
		assert_int_equal(look(&p.guest, i * RIG_SLAB), 0);
	assert_int_equal(xm_peer_region_drop_slabs(p.owner.peer, p.owner.region.id, 0, 1), 0);
	assert_int_equal(look(&p.guest, 0), -ENXIO);
	assert_int_equal(put(p.guest.link, &byte, 1, p.guest.region.id, 0), -ENXIO);
	assert_int_equal(look(&p.guest, RIG_SLAB), 0);
	assert_int_equal(xm_peer_region_resize(p.owner.peer, p.owner.region.id, 2 * RIG_SLAB, &r), 0);
	assert_int_equal(look(&p.guest, 2 * RIG_SLAB), -ENXIO);
	assert_int_equal(look(&p.guest, RIG_SLAB), 0);
	assert_int_equal(rig_stat(&rig).slabs_used, 1);
	/* grown anew it is other memory, and the guest finds it */
	assert_int_equal(xm_peer_region_resize(p.owner.peer, p.owner.region.id, 3 * RIG_SLAB, &r), 0);
	rig_until((byte = 1, get(p.guest.link, &byte, 1, p.guest.region.id, 2 * RIG_SLAB) == 0));
	assert_int_equal(byte, 0);
	assert_int_equal(xm_peer_region_free(p.owner.peer, p.owner.region.id), 0);
	for (unsigned i = 0; i < SLABS; i++)
		assert_int_equal(look(&p.guest, i * RIG_SLAB), -ENXIO);
	assert_int_equal(xm_peer_region_open(p.guest.peer, "ours", &r), -ENOENT);
	assert_int_equal(xm_peer_region_info(p.guest.peer, p.guest.region.id, &r), -ENOENT);
	rig_until(nothing_is_left());
	close_pair(&p);
}

static void test_owner_when_its_session_ends_then_the_guest_is_told(void **unused)
{
	struct xm_region_info r;
	struct pair p;

	open_pair(&p, &may_read);
	for (unsigned i = 0; i + 1 < SLABS; i++) /* of the last one it has neither mapping nor key */
		assert_int_equal(look(&p.guest, i * RIG_SLAB), 0);
	leave(&p.owner);
	for (unsigned i = 0; i < SLABS; i++)
		rig_until(look(&p.guest, i * RIG_SLAB) == -ENXIO);
	assert_int_equal(xm_peer_region_open(p.guest.peer, "ours", &r), -ENOENT);
	rig_until(nothing_is_left());
	/* its own work is not disturbed */
	assert_int_equal(xm_peer_region_create(p.guest.peer, RIG_SLAB, "ours", 0, &p.guest.region), 0);
	assert_int_equal(put(p.guest.link, &(uint8_t){ MARK }, 1, p.guest.region.id, 0), 0);
	assert_int_equal(look(&p.guest, 0), 0);
	leave(&p.guest);
	rig_until(nothing_is_left());
}

static void test_guest_when_its_session_ends_then_the_owner_goes_on(void **unused)
{
	struct xm_appliance_stat st;
	struct pair p;

	open_pair(&p, &may_write);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < SLABS; i++)
			assert_int_equal(look(&p.guest, i * RIG_SLAB), 0);
		leave(&p.guest);
		rig_until(rig_stat(&rig).sessions == 2); /* the owner's, and the one that asks */
		st = rig_stat(&rig);
		assert_int_equal(st.regions, 1);
		assert_int_equal(st.slabs_used, SLABS);
		assert_int_equal(st.total_bytes - st.free_bytes, SLABS * RIG_SLAB);
		for (unsigned i = 0; i < SLABS; i++)
			assert_int_equal(look(&p.owner, i * RIG_SLAB), 0);
		enter(&p.guest);
		assert_int_equal(xm_peer_region_open(p.guest.peer, "ours", &p.guest.region), 0);
	}
	close_pair(&p);
}

/* Several guests with different rights at once; the owner frees while they read. */
struct reader {
	struct fixture f;
	pthread_t thread;
	int last; /* its own until it is joined */
	const int *over;
	unsigned seen, missed;
};

/* A connection that has died of memory that went away is made anew. false: the appliance is lost. */
static bool is_back(const struct fixture *f)
{
	return f->link->ops->state(f->link) == 0 || xm_link_reconnect(f->link) == 0;
}

static void *read_on(void *arg)
{
	struct reader *r = arg;
	uint8_t byte;

	do
		r->last = get(r->f.link, &byte, 1, r->f.region.id, 0);
	while (r->last == 0 || (r->last == -ENOLINK && is_back(&r->f)));
	return NULL;
}

static void test_guests_when_the_owner_frees_under_them_then_all_are_told(void **unused)
{
	struct reader r[4];
	struct fixture owner;

	for (unsigned round = 0; round < 4; round++) {
		share(&owner, "ours", round % 2 ? &may_write : &may_read);
		for (unsigned i = 0; i < XM_ARRAY_SIZE(r); i++) {
			enter(&r[i].f);
			assert_int_equal(xm_peer_region_open(r[i].f.peer, "ours", &r[i].f.region), 0);
			assert_int_equal(look(&r[i].f, 0), 0);
			assert_int_equal(pthread_create(&r[i].thread, NULL, read_on, &r[i]), 0);
		}
		if (round < 2)
			assert_int_equal(xm_peer_region_free(owner.peer, owner.region.id), 0);
		leave(&owner);
		for (unsigned i = 0; i < XM_ARRAY_SIZE(r); i++) {
			pthread_join(r[i].thread, NULL);
			assert_int_equal(r[i].last, -ENXIO);
			leave(&r[i].f);
		}
		rig_until(nothing_is_left());
	}
}

static void *read_till_over(void *arg)
{
	struct reader *r = arg;
	uint8_t byte;

	while (!xm_load(r->over)) {
		int ret = get(r->f.link, &byte, 1, r->f.region.id, 2 * RIG_SLAB);

		r->seen += ret == 0;
		r->missed += ret == -ENXIO;
		if (ret && ret != -ENXIO && ret != -ENOMEM && !(ret == -ENOLINK && is_back(&r->f))) {
			r->last = ret;
			break;
		}
	}
	return NULL;
}

/* Threads of one guest, which map slabs anew for each other: none is told that its own memory went away. */
static void test_threads_of_a_guest_when_slabs_are_replaced_then_no_buffer_of_theirs_is_to_blame(
	void **unused)
{
	struct reader r[4];
	struct xm_region_info info;
	struct pair p;
	int over = 0;

	open_pair(&p, &may_read);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(r); i++) {
		r[i] = (struct reader){ .f = p.guest, .over = &over };
		assert_int_equal(xm_link_open(p.guest.peer, &r[i].f.link), 0);
		assert_int_equal(pthread_create(&r[i].thread, NULL, read_till_over, &r[i]), 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(xm_peer_region_resize(p.owner.peer, p.owner.region.id, 2 * RIG_SLAB, &info),
				 0);
		usleep(i % 7 * 50);
		assert_int_equal(xm_peer_region_resize(p.owner.peer, p.owner.region.id, 3 * RIG_SLAB, &info),
				 0);
		usleep(i % 5 * 200);
	}
	xm_store(&over, 1);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(r); i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].last, 0);
		r[i].f.link->ops->close(r[i].f.link);
	}
	close_pair(&p);
}

static bool is_mapped(const void *at)
{
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { (void *)at, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

static int look_again(const struct fixture *f)
{
	uint8_t byte;

	return get(f->link, &byte, 1, f->region.id, 0);
}

/* A client has room for 256 regions: those that are over, for it or for their owner, take none for long. */
static void test_guest_of_300_regions_one_after_the_other_has_room_for_each(void **unused)
{
	enum { CLOSED, FREED_AND_READ, FREED_AND_ASKED_FOR, WAYS };
	struct fixture owner, guest;
	uint8_t byte = MARK;

	enter(&owner);
	enter(&guest);
	for (unsigned i = 0; i < WAYS * 300; i++) {
		unsigned way = i / 300;
		const void *at;

		assert_int_equal(xm_peer_region_create_shared(owner.peer, RIG_SLAB, "ours", &may_read, 1,
							      &owner.region),
				 0);
		assert_int_equal(put(owner.link, &byte, 1, owner.region.id, 0), 0);
		assert_int_equal(xm_peer_region_open(guest.peer, "ours", &guest.region), 0);
		rig_until(look_again(&guest) != -ENOMEM);
		assert_int_equal(look(&guest, 0), 0);
		at = guest.link->ops->direct(guest.link, guest.region.id, 0, 1, false);
		if (way == CLOSED) {
			xm_peer_region_close(guest.peer, guest.region.id);
			assert_false(at && is_mapped(at));
			assert_int_equal(look(&guest, 0), 0); /* it is still there for whoever asks */
			xm_peer_region_close(guest.peer, guest.region.id);
			xm_peer_region_close(guest.peer, guest.region.id);
		}
		assert_int_equal(xm_peer_region_free(owner.peer, owner.region.id), 0);
		if (way == FREED_AND_READ)
			assert_int_equal(look(&guest, 0), -ENXIO);
		if (way == FREED_AND_ASKED_FOR)
			assert_int_equal(xm_peer_region_info(guest.peer, guest.region.id, &guest.region),
					 -ENOENT);
		assert_false(at && is_mapped(at));
	}
	leave(&guest);
	leave(&owner);
	rig_until(nothing_is_left());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reader_when_it_reads_then_finds_what_the_owner_wrote),
		cmocka_unit_test(test_reader_when_it_writes_then_is_refused_and_its_link_lives_on),
		cmocka_unit_test(test_reader_when_refused_amid_reads_then_the_reads_are_answered),
		cmocka_unit_test(test_writer_when_it_writes_then_the_owner_sees_it),
		cmocka_unit_test(test_writer_when_it_is_first_at_a_slab_then_the_owner_has_the_same),
		cmocka_unit_test(test_guest_when_it_manages_then_is_refused),
		cmocka_unit_test(test_user_when_a_rule_names_it_then_it_has_come_by_shm),
		cmocka_unit_test(test_user_when_somebody_attaches_over_tcp_then_is_none),
		cmocka_unit_test(test_name_when_it_is_taken_then_depends_on_by_whom),
		cmocka_unit_test(test_rules_that_cannot_be_are_refused),
		cmocka_unit_test(test_regions_that_are_not_there_when_asked_for_then_take_no_room),
		cmocka_unit_test(test_owner_when_it_takes_slabs_back_then_the_guest_is_told),
		cmocka_unit_test(test_owner_when_its_session_ends_then_the_guest_is_told),
		cmocka_unit_test(test_guest_when_its_session_ends_then_the_owner_goes_on),
		cmocka_unit_test(test_guests_when_the_owner_frees_under_them_then_all_are_told),
		cmocka_unit_test(
			test_threads_of_a_guest_when_slabs_are_replaced_then_no_buffer_of_theirs_is_to_blame),
		cmocka_unit_test(test_guest_of_300_regions_one_after_the_other_has_room_for_each),
	};

	return run_on_each_transport(tests, XM_ARRAY_SIZE(tests));
}
