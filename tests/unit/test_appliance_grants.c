/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance_grants.c - guests' keys to slabs (grant.h): who has which, and what becomes of them when the slab, the
 * owner's session or the guest's ends, also while the device is busy with one of them.
 */
#include "tests/unit/grants_rig.h"

#include <sys/uio.h>

static uint64_t seed;

/* ---- keys ---------------------------------------------------------------------------------------------- */

static void test_guest_when_it_asks_again_then_has_the_same_key(void **unused)
{
	static struct client owner, g, h;
	struct xm_wire_key first;
	uint64_t region;

	enter(&owner);
	enter(&g);
	enter(&h);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	assert_int_equal(ask_key(&owner, region, 0), 0);
	assert_int_equal(owner.out.u.keys.key[0].rights, XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE);
	assert_int_equal(granted, 0);
	assert_int_equal(ask_key(&g, region, 0), 0);
	first = g.out.u.keys.key[0];
	assert_int_equal(first.rights, XM_WIRE_RIGHT_READ);
	assert_int_equal(ask_key(&h, region, 0), 0);
	assert_int_not_equal(h.out.u.keys.key[0].rkey, first.rkey);
	assert_int_equal(h.out.u.keys.key[0].addr, first.addr);
	assert_int_equal(ask_key(&g, region, 0), 0);
	assert_memory_equal(&g.out.u.keys.key[0], &first, sizeof(first));
	assert_int_equal(granted, 2);
	/* neighbours, those that have memory */
	assert_int_equal(ask_key(&owner, region, 1), 0);
	assert_int_equal(ask_slabs(&g, XM_WIRE_SLAB_KEYS, region, 0, SIZE), 0);
	assert_int_equal(g.out.u.keys.count, 2);
	assert_memory_equal(&g.out.u.keys.key[0], &first, sizeof(first));
	assert_int_equal(ask_slabs(&owner, XM_WIRE_REGION_DROP, region, 1, 1), 0);
	assert_int_equal(ask_key(&g, region, 1), -ENXIO);
	assert_int_equal(free_region(&owner, region), 0);
	assert_int_equal(ask_key(&g, region, 0), -ENOENT);
	g.minor = 2;
	assert_int_equal(ask_key(&g, region, 0), -ENXIO);
	leave(&g);
	leave(&h);
	leave(&owner);
}

static void test_guest_when_the_device_has_no_room_then_is_told(void **unused)
{
	static struct client owner, g;
	uint64_t region;

	enter(&owner);
	enter(&g);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	set(&refuse, true);
	assert_int_equal(ask_key(&g, region, 0), -ENOMEM);
	assert_non_null(strstr(g.out.u.error.text, "register"));
	set(&refuse, false);
	assert_int_equal(ask_key(&g, region, 0), 0);
	assert_int_equal(alive(), 1);
	leave(&owner);
	leave(&g);
}

static unsigned warm_for(const struct xm_domain *domain)
{
	unsigned n = 0;

	pthread_mutex_lock(&a.pool.mutex);
	for (const struct xm_slab *s = a.pool.warm; s; s = s->next)
		n += s->domain == domain;
	pthread_mutex_unlock(&a.pool.mutex);
	return n;
}

/* Memory that is warm for the guest's connections could be written by them, whatever the rules say. */
static void test_guest_when_first_at_a_slab_then_it_is_not_one_that_was_warm_for_it(void **unused)
{
	static struct client owner, g;
	const struct xm_domain *first;
	uint64_t region;

	stop(NULL);
	start_with(2);
	enter(&owner);
	enter(&g);
	xm_pool_activate(&a.pool, g.s->domain);
	rig_until(warm_for(g.s->domain) == 2);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	assert_int_equal(ask_key(&g, region, 0), 0);
	pthread_mutex_lock(&a.mutex);
	first = owner.s->regions->slab[0]->domain;
	pthread_mutex_unlock(&a.mutex);
	assert_null(first);
	assert_int_equal(ask_key(&owner, region, 0), 0);
	leave(&owner);
	leave(&g);
}

static void test_65th_guest_of_a_slab_is_refused_in_words(void **unused)
{
	static struct client owner, g[XM_SLAB_GRANTS_MAX + 1];
	struct client *last = &g[XM_SLAB_GRANTS_MAX];
	uint64_t region;

	enter(&owner);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i <= XM_SLAB_GRANTS_MAX; i++)
		enter(&g[i]);
	for (unsigned i = 0; i < XM_SLAB_GRANTS_MAX; i++)
		assert_int_equal(ask_key(&g[i], region, 0), 0);
	assert_int_equal(ask_key(last, region, 0), -EUSERS);
	assert_non_null(strstr(last->out.u.error.text, "key"));
	assert_int_equal(granted, XM_SLAB_GRANTS_MAX); /* nor was the device asked */
	assert_int_equal(ask_key(last, region, 1), 0);
	assert_int_equal(ask_key(&g[0], region, 0), 0); /* who has one keeps it */
	assert_int_equal(ask_key(&owner, region, 0), 0);
	leave(&g[7]);
	assert_int_equal(ask_key(last, region, 0), 0);
	for (unsigned i = 0; i <= XM_SLAB_GRANTS_MAX; i++)
		if (i != 7)
			leave(&g[i]);
	leave(&owner);
}

static void test_two_guests_when_one_place_is_left_then_one_has_it(void **unused)
{
	static struct client owner, g[XM_SLAB_GRANTS_MAX - 1], two[2];
	uint64_t region;
	int ret[2];

	enter(&owner);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++) {
		enter(&g[i]);
		assert_int_equal(ask_key(&g[i], region, 0), 0);
	}
	set(&shut_grant, true);
	for (unsigned i = 0; i < 2; i++) {
		enter(&two[i]);
		want_slabs(&two[i], region, 0, 1);
		start_ask(&two[i], XM_WIRE_SLAB_KEYS);
	}
	rig_until(locked(&inside) == 2);
	set(&shut_grant, false);
	for (unsigned i = 0; i < 2; i++)
		ret[i] = finish(&two[i]);
	assert_true((ret[0] == 0 && ret[1] == -EUSERS) || (ret[1] == 0 && ret[0] == -EUSERS));
	assert_int_equal(alive(), XM_SLAB_GRANTS_MAX);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++)
		leave(&g[i]);
	leave(&two[0]);
	leave(&two[1]);
	leave(&owner);
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

enum end { DROP, SHRINK, FREE, REPLACE, LEAVE, ENDS };

/* What is there, by a copy that the kernel makes; -errno */
static int peek(const uint8_t *at)
{
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { (void *)at, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? byte : -errno;
}

static void take_back(struct client *owner, uint64_t region, enum end how)
{
	switch (how) {
	case DROP: assert_int_equal(ask_slabs(owner, XM_WIRE_REGION_DROP, region, 0, 1), 0); break;
	case SHRINK: assert_int_equal(resize(owner, region, 0), 0); break;
	case FREE: assert_int_equal(free_region(owner, region), 0); break;
	case REPLACE: /* other memory at the same place */
		assert_int_equal(resize(owner, region, 0), 0);
		assert_int_equal(resize(owner, region, SIZE), 0);
		assert_int_equal(ask_key(owner, region, 0), 0);
		break;
	default: leave(owner);
	}
}

static void test_slab_when_taken_back_while_a_guest_registers_it_then_the_guest_has_no_key(void **unused)
{
	for (enum end how = 0; how < ENDS; how++) {
		static struct client owner, g;
		uint64_t region;

		enter(&owner);
		enter(&g);
		region = share(&owner, SIZE, XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE);
		assert_int_equal(ask_key(&owner, region, 0), 0);
		set(&shut_grant, true);
		want_slabs(&g, region, 0, 1);
		start_ask(&g, XM_WIRE_SLAB_KEYS);
		rig_until(locked(&inside) == 1);
		take_back(&owner, region, how); /* and does not wait for the guest's device */
		assert_false(xm_load(&g.done));
		assert_true(stat().backed_slabs >= 1);
		set(&shut_grant, false);
		assert_int_equal(finish(&g), -ENXIO);
		assert_int_equal(alive(), 0);
		assert_null(g.s->grants);
		leave(&g);
		if (how != LEAVE)
			leave(&owner);
		rig_until(stat().backed_slabs == 0);
		assert_int_equal(stat().promised_slabs, 0);
	}
}

static void test_slab_when_taken_back_then_keys_of_guests_that_are_there_die_before_the_owner_is_answered(
	void **unused)
{
	static struct client owner, g[3];

	for (enum end how = 0; how < LEAVE; how++) {
		unsigned before = granted;
		uint64_t region;

		enter(&owner);
		region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
		for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++) {
			enter(&g[i]);
			assert_int_equal(ask_key(&g[i], region, 0), 0);
		}
		assert_int_equal(granted, before + 3);
		set(&shut_revoke, true);
		/* the owner waits for the device */
		if (how == DROP)
			want_slabs(&owner, region, 0, 1);
		else
			want_region(&owner, region, 0);
		start_ask(&owner, how == DROP	? XM_WIRE_REGION_DROP
				  : how == FREE ? XM_WIRE_REGION_FREE
						: XM_WIRE_REGION_RESIZE);
		rig_until(locked(&inside) == 1);
		assert_int_equal(ask_key(&g[0], region, 0),
				 how == FREE ? -ENOENT : -ENXIO); /* nobody waits for the owner */
		leave(&g[1]);
		assert_false(xm_load(&owner.done));
		set(&shut_revoke, false);
		assert_int_equal(finish(&owner), 0);
		assert_int_equal(alive(), 0);
		assert_int_equal(locked(&revoked_by_pool), 0);
		leave(&g[0]);
		leave(&g[2]);
		leave(&owner);
		assert_int_equal(locked(&revoked_by_control), 0);
	}
}

static struct xm_slab *slab_of(const struct client *owner, uint64_t index)
{
	struct xm_slab *s;

	pthread_mutex_lock(&a.mutex);
	s = owner->s->regions->slab[index];
	pthread_mutex_unlock(&a.mutex);
	return s;
}

/* More than are destroyed before the answer. What is held by a transfer besides loses its owner's key at once. */
static void test_many_slabs_when_freed_then_the_owner_does_not_wait_for_guests_keys(void **unused)
{
	static struct client owner, g;
	struct xm_slab *keyed, *held;
	uint64_t region;

	enter(&owner);
	enter(&g);
	region = share(&owner, XM_SLABS_NOW + 6, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i < XM_SLABS_NOW + 6; i++) {
		assert_int_equal(ask_key(&owner, region, i), 0);
		if (i % 9 == 0)
			assert_int_equal(ask_key(&g, region, i), 0);
	}
	assert_int_equal(alive(), 8);
	held = slab_of(&owner, 0);
	keyed = slab_of(&owner, 9);
	xm_slab_get(held);
	set(&shut_revoke, true);
	assert_int_equal(free_region(&owner, region), 0);
	assert_int_equal(alive(), 8);
	assert_null(held->domain);
	rig_until(locked(&inside) == 1);
	assert_non_null(keyed->domain); /* its guest's key keeps it, for the pool's thread */
	set(&shut_revoke, false);
	xm_slab_put(&a.pool, held, false);
	rig_until(stat().backed_slabs == 0);
	assert_int_equal(alive(), 0);
	assert_int_equal(locked(&revoked_by_pool), 8);
	leave(&g);
	leave(&owner);
}

static void test_few_slabs_when_freed_with_many_keys_then_the_owner_does_not_wait_for_them(void **unused)
{
	static struct client owner, g[XM_SLABS_NOW / SIZE + 1];

	enter(&owner);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++)
		enter(&g[i]);
	for (unsigned more = 0; more < 2; more++) {
		uint64_t region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);

		for (unsigned i = 0; i + 1 < XM_ARRAY_SIZE(g); i++)
			for (unsigned k = 0; k < SIZE; k++)
				assert_int_equal(ask_key(&g[i], region, k), 0);
		assert_int_equal(alive(), XM_SLABS_NOW);
		if (more) {
			assert_int_equal(ask_key(&g[XM_ARRAY_SIZE(g) - 1], region, 0), 0);
			set(&shut_revoke, true);
		}
		assert_int_equal(free_region(&owner, region), 0);
		assert_int_equal(alive(), more ? XM_SLABS_NOW + 1 : 0);
		set(&shut_revoke, false);
		rig_until(stat().backed_slabs == 0);
		assert_int_equal(alive(), 0);
		assert_int_equal(locked(&revoked_by_pool), more ? XM_SLABS_NOW + 1 : 0);
	}
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++)
		leave(&g[i]);
	leave(&owner);
}

/* A reference as the tcp thread holds one for as long as somebody does not read what he asked for. */
static void test_mapping_of_a_guest_when_the_owner_is_answered_then_is_gone_whoever_holds_the_slab(
	void **unused)
{
	static struct client owner, g;

	for (enum end how = DROP; how <= FREE; how++) {
		struct xm_slab *held;
		uint64_t region;
		uint8_t *mapped;

		enter(&owner);
		enter(&g);
		region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
		assert_int_equal(ask_key(&g, region, 0), 0);
		held = slab_of(&owner, 0);
		xm_slab_get(held);
		held->addr[5] = 0x5a;
		mapped = mmap(NULL, RIG_SLAB, PROT_READ, MAP_SHARED, held->fd, 0);
		assert_true(mapped != MAP_FAILED);
		assert_int_equal(peek(mapped + 5), 0x5a);
		take_back(&owner, region, how);
		assert_int_equal(peek(mapped + 5), -EFAULT);
		assert_int_equal(stat().backed_slabs, 1);
		xm_slab_put(&a.pool, held, false);
		rig_until(stat().backed_slabs == 0);
		munmap(mapped, RIG_SLAB);
		leave(&g);
		leave(&owner);
	}
}

/* A device cannot register what is cut: that is no shortage. */
static void test_key_when_the_slab_is_cut_while_it_is_made_then_the_slab_is_not_there(void **unused)
{
	static struct client owner, g;
	uint64_t region;

	enter(&owner);
	enter(&g);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	assert_int_equal(ask_key(&owner, region, 0), 0);
	set(&shut_grant, true);
	set(&refuse, true);
	want_slabs(&g, region, 0, 1);
	start_ask(&g, XM_WIRE_SLAB_KEYS);
	rig_until(locked(&inside) == 1);
	assert_int_equal(free_region(&owner, region), 0);
	set(&shut_grant, false);
	assert_int_equal(finish(&g), -ENXIO);
	assert_null(strstr(g.out.u.error.text, "register"));
	leave(&g);
	leave(&owner);
}

static void test_keys_in_all_are_no_more_than_slabs(void **unused)
{
	static struct client owner, g[3];
	uint64_t region;

	enter(&owner);
	region = share(&owner, SLABS / 2, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++)
		enter(&g[i]);
	for (unsigned i = 0; i < SLABS; i++)
		assert_int_equal(ask_key(&g[i % 2], region, i / 2), 0);
	assert_int_equal(ask_key(&g[2], region, 0), -EUSERS);
	assert_non_null(strstr(g[2].out.u.error.text, "keys"));
	assert_int_equal(ask_key(&g[0], region, 0), 0); /* who has one keeps it */
	assert_int_equal(ask_key(&owner, region, 0), 0);
	assert_int_equal(granted, SLABS);
	set(&shut_revoke, true);
	leave(&g[0]);
	assert_int_equal(ask_key(&g[2], region, 0),
			 -EUSERS); /* they pin their pages until they are taken back */
	set(&shut_revoke, false);
	rig_until(alive() == SLABS / 2);
	rig_until(ask_key(&g[2], region, 0) == 0);
	leave(&g[1]);
	leave(&g[2]);
	leave(&owner);
}

static void test_guest_when_its_session_ends_then_the_pools_thread_takes_its_keys_back(void **unused)
{
	static struct client owner, g, h;
	uint64_t region;

	enter(&owner);
	enter(&g);
	enter(&h);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ask_key(&owner, region, i), 0);
		assert_int_equal(ask_key(&g, region, i), 0);
	}
	assert_int_equal(ask_key(&h, region, 0), 0);
	set(&shut_revoke, true);
	leave(&g); /* does not wait for the device */
	rig_until(locked(&inside) == 1);
	assert_int_equal(ask_key(&owner, region, 0), 0);
	assert_int_equal(ask_key(&h, region, 0), 0);
	assert_int_equal(ask_key(&h, region, 1), 0);
	assert_int_equal(stat().promised_slabs, SIZE);
	set(&shut_revoke, false);
	rig_until(alive() == 2);
	assert_int_equal(locked(&revoked_by_pool), 3);
	assert_int_equal(stat().promised_slabs, SIZE);
	assert_int_equal(stat().backed_slabs, 3);
	leave(&h);
	rig_until(alive() == 0);
	assert_int_equal(locked(&revoked_by_control), 0);
	leave(&owner);
}

/* The owner does not wait for it, and what it reaches is nobody else's: slabs are neither destroyed nor lent again before. */
static void test_key_of_a_guest_that_ended_just_before_may_outlive_the_owners_answer_and_keeps_the_memory(
	void **unused)
{
	static struct client owner, g;
	uint64_t region;

	enter(&owner);
	enter(&g);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(ask_key(&owner, region, i), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(ask_key(&g, region, i), 0);
	set(&shut_revoke, true);
	leave(&g);
	rig_until(locked(&inside) == 1);
	assert_int_equal(free_region(&owner, region), 0); /* the owner has nothing to wait for */
	assert_int_equal(xm_load(&destroyed), 1);	  /* the one that the guest has no key to */
	assert_int_equal(stat().promised_slabs, 3);
	assert_int_equal(stat().free_bytes, (SLABS - 3) * RIG_SLAB);
	set(&shut_revoke, false);
	rig_until(stat().backed_slabs == 0);
	assert_int_equal(stat().promised_slabs, 0);
	assert_int_equal(xm_load(&destroyed), SIZE);
	leave(&owner);
}

static void test_owner_when_its_session_ends_then_the_pools_thread_takes_guests_keys_back(void **unused)
{
	static struct client owner, g, h;
	uint64_t region;

	enter(&owner);
	enter(&g);
	enter(&h);
	region = share(&owner, SIZE, XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE);
	for (unsigned i = 0; i < SIZE; i++) {
		assert_int_equal(ask_key(&g, region, i), 0);
		assert_int_equal(ask_key(&h, region, i), 0);
	}
	set(&shut_revoke, true);
	leave(&owner);
	rig_until(locked(&inside) == 1);
	assert_null(g.s->grants);
	assert_int_equal(ask_key(&g, region, 0), -ENOENT);
	leave(&h);
	assert_int_equal(stat().promised_slabs, SIZE);
	assert_int_equal(xm_load(&destroyed), 0);
	set(&shut_revoke, false);
	rig_until(stat().backed_slabs == 0);
	assert_int_equal(locked(&revoked_by_pool), 2 * SIZE);
	assert_int_equal(stat().promised_slabs, 0);
	leave(&g);
}

/* ---- all at once --------------------------------------------------------------------------------------- */

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* whoever holds it is the control thread */
static uint64_t shared_id;				 /* atomic */
static int over;					 /* atomic: the owner has done enough */

struct actor {
	struct client c;
	pthread_t thread;
	uint64_t x;
	unsigned keys, refused, odd;
};

static unsigned dice(struct actor *p, unsigned n)
{
	p->x = p->x * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(p->x >> 33) % n;
}

static int act(struct client *c, uint16_t type)
{
	bool more;

	pthread_mutex_lock(&turn);
	more = begin(c, type);
	pthread_mutex_unlock(&turn);
	if (more)
		xm_request_rest(&c->r);
	return c->out.h.status;
}

static void come_and_go(struct client *c)
{
	pthread_mutex_lock(&turn);
	if (c->s)
		leave(c);
	enter(c);
	pthread_mutex_unlock(&turn);
}

static void *be_guest(void *arg)
{
	struct actor *p = arg;

	jitter = (unsigned)p->x | 1;
	for (unsigned i = 0; i < 100 || (!xm_load(&over) && i < 10000); i++) {
		int ret;

		if (dice(p, 12) == 0)
			come_and_go(&p->c);
		want_slabs(&p->c, xm_load(&shared_id), dice(p, SIZE), 1 + dice(p, SIZE));
		ret = act(&p->c, XM_WIRE_SLAB_KEYS);
		p->keys += ret == 0;
		p->refused += ret == -ENXIO || ret == -ENOENT;
		p->odd += ret != 0 && ret != -ENXIO && ret != -ENOENT;
		usleep(dice(p, 100)); /* or nobody else has a turn */
	}
	return NULL;
}

static void *be_owner(void *arg)
{
	struct actor *p = arg;

	jitter = (unsigned)p->x | 1;
	for (unsigned i = 0; i < 200; i++) {
		uint64_t id = xm_load(&shared_id);
		unsigned what = dice(p, 8);
		int ret;

		if (what < 3) {
			want_slabs(&p->c, id, dice(p, SIZE), 1);
			ret = act(&p->c, what ? XM_WIRE_SLAB_KEYS : XM_WIRE_REGION_DROP);
			p->odd += ret != 0 && ret != -ENXIO && ret != -EINVAL;
		} else if (what < 6) {
			want_region(&p->c, id, (SIZE - dice(p, SIZE + 3) % (SIZE + 1)) * RIG_SLAB);
			p->odd += act(&p->c, XM_WIRE_REGION_RESIZE) != 0;
		} else {
			if (what == 6) {
				want_region(&p->c, id, 0);
				p->odd += act(&p->c, XM_WIRE_REGION_FREE) != 0;
			} else {
				come_and_go(&p->c);
			}
			want_shared(&p->c, SIZE, XM_WIRE_RIGHT_READ);
			ret = act(&p->c, XM_WIRE_REGION_CREATE);
			p->odd += ret != 0;
			xm_store(&shared_id, p->c.out.u.region.id);
		}
		usleep(dice(p, 100));
	}
	xm_store(&over, 1);
	return NULL;
}

static void test_guests_and_owner_when_all_at_once_then_nothing_is_left(void **unused)
{
	static struct actor owner, g[4];
	unsigned keys = 0, refused = 0;

	memset(&owner, 0, sizeof(owner));
	memset(g, 0, sizeof(g));
	owner.x = seed;
	come_and_go(&owner.c);
	over = 0;
	shared_id = share(&owner.c, SIZE, XM_WIRE_RIGHT_READ);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++) {
		g[i].x = seed + i + 1;
		come_and_go(&g[i].c);
		assert_int_equal(pthread_create(&g[i].thread, NULL, be_guest, &g[i]), 0);
	}
	assert_int_equal(pthread_create(&owner.thread, NULL, be_owner, &owner), 0);
	pthread_join(owner.thread, NULL);
	assert_int_equal(owner.odd, 0);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(g); i++) {
		pthread_join(g[i].thread, NULL);
		assert_int_equal(g[i].odd, 0);
		keys += g[i].keys;
		refused += g[i].refused;
		leave(&g[i].c);
	}
	printf("%u keys, %u refused\n", keys, refused);
	assert_true(keys > 0 && refused > 0);
	leave(&owner.c);
	rig_until(stat().backed_slabs == 0);
	assert_int_equal(stat().promised_slabs, 0);
	assert_int_equal(locked(&revoked_by_control), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_guest_when_it_asks_again_then_has_the_same_key),
		CASE(test_guest_when_the_device_has_no_room_then_is_told),
		CASE(test_guest_when_first_at_a_slab_then_it_is_not_one_that_was_warm_for_it),
		CASE(test_65th_guest_of_a_slab_is_refused_in_words),
		CASE(test_two_guests_when_one_place_is_left_then_one_has_it),
		CASE(test_slab_when_taken_back_while_a_guest_registers_it_then_the_guest_has_no_key),
		CASE(test_slab_when_taken_back_then_keys_of_guests_that_are_there_die_before_the_owner_is_answered),
		CASE(test_many_slabs_when_freed_then_the_owner_does_not_wait_for_guests_keys),
		CASE(test_few_slabs_when_freed_with_many_keys_then_the_owner_does_not_wait_for_them),
		CASE(test_mapping_of_a_guest_when_the_owner_is_answered_then_is_gone_whoever_holds_the_slab),
		CASE(test_key_when_the_slab_is_cut_while_it_is_made_then_the_slab_is_not_there),
		CASE(test_keys_in_all_are_no_more_than_slabs),
		CASE(test_guest_when_its_session_ends_then_the_pools_thread_takes_its_keys_back),
		CASE(test_key_of_a_guest_that_ended_just_before_may_outlive_the_owners_answer_and_keeps_the_memory),
		CASE(test_owner_when_its_session_ends_then_the_pools_thread_takes_guests_keys_back),
		CASE(test_guests_and_owner_when_all_at_once_then_nothing_is_left),
	};
	const char *given = getenv("XM_SEED");

	seed = given ? strtoull(given, NULL, 0) : xm_now_ns();
	printf("XM_SEED=%llu\n", (unsigned long long)seed);
	xm_log_init("test", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
