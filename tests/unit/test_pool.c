/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pool.c - the pool when all its memory is in use: whoever takes a slab that was promised waits for the pool's
 * thread, and nobody gets more than there is. Making and destroying slabs goes through here (tests/module.mk), so that it
 * takes as long as a test likes; domains are names only, for there is no device.
 */
#include "tests/unit/appliance_rig.h"
#define SLAB_WRAPS_GRANTS
#include "tests/unit/slab_wraps.h"

#include "appliance/grant.h"

#include <pthread.h>

static struct xm_pool pool;
static int shut;	    /* atomic: calls wait */
static int fails;	    /* atomic: nothing can be made */
static int inside;	    /* atomic: calls that wait */
static int destroyed;	    /* atomic */
static int destroyed_by_us; /* atomic: not by the pool's thread */
static int revoking;	    /* atomic: keys that are being taken back, or were */
static int revokes;	    /* atomic: how many may be */

static bool on_pools_thread(void)
{
	return pthread_equal(pthread_self(), pool.thread);
}

static void pass(void)
{
	__atomic_fetch_add(&inside, 1, __ATOMIC_ACQ_REL);
	while (xm_load(&shut))
		usleep(200);
	__atomic_fetch_sub(&inside, 1, __ATOMIC_ACQ_REL);
}

int __wrap_xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out)
{
	if (xm_load(&fails)) {
		pass();
		return -ENOMEM;
	}
	return __real_xm_slab_create(kind, populate, out);
}

void __wrap_xm_slab_destroy(struct xm_slab *s)
{
	pass();
	xm_add(&destroyed, 1);
	xm_add(&destroyed_by_us, !on_pools_thread());
	__real_xm_slab_destroy(s);
}

int __wrap_xm_domain_register(struct xm_domain *d, struct xm_slab *s)
{
	s->domain = d;
	return 0;
}

int __wrap_xm_domain_grant(struct xm_grant *g)
{
	return 0;
}

void __wrap_xm_domain_revoke(struct xm_grant *g)
{
	int turn = __atomic_add_fetch(&revoking, 1, __ATOMIC_ACQ_REL);

	while (xm_load(&revokes) < turn)
		usleep(200);
}

static void start(uint64_t slabs, unsigned warm)
{
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };

	shut = fails = destroyed = destroyed_by_us = revoking = revokes = 0;
	assert_int_equal(xm_pool_init(&pool, &kind, slabs * RIG_SLAB, warm), 0);
}

static struct xm_pool_stat stat(void)
{
	struct xm_pool_stat st;

	xm_pool_stat(&pool, &st);
	return st;
}

struct taker {
	pthread_t thread;
	struct xm_domain *domain;
	struct xm_slab *got;
	int ret;
	int done; /* atomic */
};

static void *take(void *arg)
{
	struct taker *t = arg;

	t->ret = xm_pool_take(&pool, t->domain, false, &t->got);
	xm_store(&t->done, 1);
	return NULL;
}

static void start_taker(struct taker *t)
{
	assert_int_equal(xm_pool_promise(&pool, 1), 0);
	assert_int_equal(pthread_create(&t->thread, NULL, take, t), 0);
}

static void finish_taker(struct taker *t)
{
	pthread_join(t->thread, NULL);
	assert_int_equal(t->ret, 0);
	assert_true(stat().backed_slabs * RIG_SLAB <= stat().total_bytes);
}

static bool somebody_waits(const struct taker *t)
{
	bool waits;

	pthread_mutex_lock(&pool.mutex);
	waits = pool.waiting > 0;
	pthread_mutex_unlock(&pool.mutex);
	return waits || xm_load(&t->done);
}

/* A slab that was lent and is given back with its promise, for the pool's thread to destroy. */
static void give_back(struct xm_slab *s)
{
	s->owes = true;
	xm_slab_put(&pool, s, false);
}

static struct xm_slab *take_one(struct xm_domain *domain)
{
	struct xm_slab *s;

	assert_int_equal(xm_pool_promise(&pool, 1), 0);
	assert_int_equal(xm_pool_take(&pool, domain, false, &s), 0);
	return s;
}

static void stop(void)
{
	assert_int_equal(xm_load(&destroyed_by_us), 0);
	xm_pool_fini(&pool);
}

static void test_taker_when_last_slab_is_being_destroyed_then_waits_for_its_memory(void **unused)
{
	struct taker t = { 0 };

	start(1, 0);
	xm_store(&shut, 1);
	give_back(take_one(NULL));
	rig_until(xm_load(&inside) == 1);
	start_taker(&t);
	rig_until(somebody_waits(&t));
	assert_int_equal(stat().backed_slabs, 1); /* that one, and not ours besides */
	assert_false(xm_load(&t.done));
	xm_store(&shut, 0);
	finish_taker(&t);
	give_back(t.got);
	rig_until(stat().backed_slabs == 0);
	stop();
}

static void test_takers_when_slabs_wait_to_be_destroyed_then_leave_that_to_the_pools_thread(void **unused)
{
	struct taker t[3] = { 0 };
	struct xm_slab *s[3];

	start(3, 2);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(t); i++)
		s[i] = take_one(NULL);
	xm_store(&shut, 1);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(t); i++)
		give_back(s[i]);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(t); i++)
		start_taker(&t[i]);
	rig_until(somebody_waits(&t[0]));
	xm_store(&shut, 0);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(t); i++)
		finish_taker(&t[i]);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(t); i++)
		give_back(t[i].got);
	rig_until(stat().warm_bytes == 2 * RIG_SLAB); /* nobody waits any more: made ahead again */
	stop();
}

/* Two sessions take turns: what is warm is always registered for the other. */
static void test_taker_when_all_is_warm_for_another_domain_then_gets_its_memory(void **unused)
{
	static char name[3];
	struct xm_domain *domain[] = { NULL, (struct xm_domain *)&name[1], (struct xm_domain *)&name[2] };

	start(2, 2);
	for (unsigned i = 0; i < 200; i++) {
		struct xm_domain *mine = domain[i % XM_ARRAY_SIZE(domain)];
		struct taker t[2] = { { .domain = mine }, { .domain = mine } };

		start_taker(&t[0]);
		start_taker(&t[1]);
		for (unsigned k = 0; k < XM_ARRAY_SIZE(t); k++) {
			finish_taker(&t[k]);
			assert_true(!t[k].got->domain || t[k].got->domain == mine);
		}
		give_back(t[0].got);
		give_back(t[1].got);
	}
	stop();
}

static void test_slab_when_doomed_while_making_fails_then_is_destroyed(void **unused)
{
	struct xm_slab *s;

	start(2, 0);
	s = take_one(NULL);
	xm_store(&fails, 1);
	xm_store(&shut, 1);
	pthread_mutex_lock(&pool.mutex);
	pool.warm_target = 1;
	pthread_cond_signal(&pool.work);
	pthread_mutex_unlock(&pool.mutex);
	rig_until(xm_load(&inside) == 1); /* it is making one */
	give_back(s);			  /* it is not asleep, so nothing wakes it */
	xm_store(&shut, 0);
	rig_until(xm_load(&destroyed) == 1);
	stop();
}

#define KEYS 3u

/* Guests have keys to all of them, and are gone: the pool's thread takes the first one back, and the device takes its time. */
static void revoke_keys(struct xm_slab *s[KEYS])
{
	struct xm_grant *list = NULL;

	for (unsigned i = 0; i < KEYS; i++) {
		struct xm_grant *g = calloc(1, sizeof(*g));

		assert_non_null(g);
		assert_int_equal(xm_pool_may_grant(&pool), 0);
		g->slab = s[i];
		g->slab_next = list;
		xm_slab_get(s[i]);
		list = g;
	}
	xm_pool_revoke(&pool, list);
	rig_until(xm_load(&revoking) == 1);
}

static void finish_keys(struct xm_slab *s[KEYS], struct taker *t)
{
	xm_store(&revokes, (int)KEYS);
	for (unsigned i = 0; i < KEYS; i++)
		give_back(s[i]);
	give_back(t->got);
	rig_until(xm_load(&revoking) == (int)KEYS && stat().promised_slabs == 0);
	stop();
	assert_int_equal(pool.grants, 0);
}

static void test_taker_when_keys_are_to_be_taken_back_then_doomed_memory_comes_first(void **unused)
{
	struct taker t = { 0 };
	struct xm_slab *s[KEYS], *last;

	start(KEYS + 1, 0);
	for (unsigned i = 0; i < KEYS; i++)
		s[i] = take_one(NULL);
	last = take_one(NULL);
	revoke_keys(s);
	give_back(last);
	start_taker(&t);
	rig_until(somebody_waits(&t));
	assert_false(xm_load(&t.done));
	xm_store(&revokes, 1); /* the one under way */
	finish_taker(&t);
	assert_true(xm_load(&revoking) <= 2);
	finish_keys(s, &t);
}

static void test_taker_when_keys_are_to_be_taken_back_then_what_is_warm_for_others_comes_first(void **unused)
{
	static char name;
	struct xm_slab *s[KEYS];
	struct taker t = { 0 };

	start(KEYS + 1, 1);
	for (unsigned i = 0; i < KEYS; i++)
		s[i] = take_one(NULL);
	assert_null(xm_pool_activate(&pool, (struct xm_domain *)&name));
	rig_until(stat().warm_bytes == RIG_SLAB);
	rig_until((pthread_mutex_lock(&pool.mutex), t.ret = pool.warm && pool.warm->domain,
		   pthread_mutex_unlock(&pool.mutex), t.ret));
	revoke_keys(s);
	start_taker(&t);
	rig_until(somebody_waits(&t));
	assert_false(xm_load(&t.done));
	xm_store(&revokes, 1);
	finish_taker(&t);
	assert_true(xm_load(&revoking) <= 2);
	finish_keys(s, &t);
}

/* Nothing else is to be had: the key that is taken back is the last to hold a slab, and all of them are promised. */
static void test_taker_when_only_a_key_holds_memory_then_waits_for_its_end(void **unused)
{
	struct xm_slab *s[KEYS];
	struct taker t = { 0 };

	start(KEYS, 0);
	for (unsigned i = 0; i < KEYS; i++)
		s[i] = take_one(NULL);
	revoke_keys(s);
	xm_pool_release(&pool, 1);
	xm_slab_put(&pool, s[KEYS - 1], false); /* held by the key that is being taken back */
	start_taker(&t);
	rig_until(somebody_waits(&t));
	assert_false(xm_load(&t.done));
	xm_store(&revokes, 1);
	finish_taker(&t);
	assert_true(xm_load(&revoking) <= 2);
	xm_store(&revokes, (int)KEYS);
	for (unsigned i = 0; i + 1 < KEYS; i++)
		give_back(s[i]);
	give_back(t.got);
	rig_until(xm_load(&revoking) == (int)KEYS && stat().promised_slabs == 0);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_taker_when_last_slab_is_being_destroyed_then_waits_for_its_memory),
		cmocka_unit_test(
			test_takers_when_slabs_wait_to_be_destroyed_then_leave_that_to_the_pools_thread),
		cmocka_unit_test(test_taker_when_all_is_warm_for_another_domain_then_gets_its_memory),
		cmocka_unit_test(test_slab_when_doomed_while_making_fails_then_is_destroyed),
		cmocka_unit_test(test_taker_when_keys_are_to_be_taken_back_then_doomed_memory_comes_first),
		cmocka_unit_test(
			test_taker_when_keys_are_to_be_taken_back_then_what_is_warm_for_others_comes_first),
		cmocka_unit_test(test_taker_when_only_a_key_holds_memory_then_waits_for_its_end),
	};

	xm_log_init("test_pool", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
