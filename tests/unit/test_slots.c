/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_slots.c - the book of slots: neighbours, counts, which slabs are used, checksums, and that threads never
 * share a slot. A family object without processes or appliances.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/slots.h"

#define SLAB_SLOTS 1024u
#define BATCH 64

static void add_slab(struct xm_family *f, uint32_t state, uint32_t index)
{
	struct xm_slab_desc *d = &f->slab[f->nslabs];

	d->slots = SLAB_SLOTS;
	d->free = state == XM_SLAB_EXPLICIT ? 0 : SLAB_SLOTS;
	d->index = index;
	d->region = 42;
	d->state = state;
	f->nslabs++;
}

static int setup(void **state)
{
	struct xm_family_config cfg = { .budget_bytes = 8 << 20 };
	int err = 0;
	struct xm_family *f = xm_family_create(&cfg, NULL, &err);

	if (!f)
		return -1;
	add_slab(f, XM_SLAB_POOL, 0);
	add_slab(f, XM_SLAB_EXPLICIT, 0);
	add_slab(f, XM_SLAB_POOL, 1);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	xm_family_unmap(*state);
	return 0;
}

/* slots that page words name */
static int take(struct xm_family *f, uint32_t *hint, uint64_t *slot, int n)
{
	int got = xm_slots_alloc(f, 3, hint, slot, n);

	for (int i = 0; i < got; i++)
		xm_slots_own(f, slot[i]);
	xm_slots_hand_empty(f, 3);
	return got;
}

static void test_alloc_when_fresh_then_neighbours(void **state)
{
	struct xm_family *f = *state;
	uint64_t slot[BATCH];
	uint32_t hint = 0;

	assert_int_equal(take(f, &hint, slot, BATCH), BATCH);
	for (int i = 0; i < BATCH; i++) {
		assert_int_equal(slot[i], slot[0] + (uint64_t)i);
		assert_int_equal(xm_slots_refs(f, slot[i]), 1);
	}
	assert_int_equal(f->slots_used, BATCH);
	assert_int_equal(f->slots_used_max, BATCH);
	assert_int_equal(xm_slots_free(f), 2 * SLAB_SLOTS - BATCH);
}

static void test_alloc_when_all_taken_then_none_and_explicit_never_used(void **state)
{
	struct xm_family *f = *state;
	uint64_t slot[256];
	uint32_t hint = 0, got = 0;
	int n;

	while ((n = take(f, &hint, slot, 256)) > 0) {
		for (int i = 0; i < n; i++)
			assert_int_not_equal(slot[i] >> XM_SLAB_SLOT_SHIFT, 1);
		got += (uint32_t)n;
	}
	assert_int_equal(got, 2 * SLAB_SLOTS);
	assert_int_equal(xm_slots_free(f), 0);
	assert_int_equal(take(f, &hint, slot, 1), 0);
	xm_slots_put(f, 7);
	assert_int_equal(take(f, &hint, slot, 2), 1);
	assert_int_equal(slot[0], 7);
}

static void test_alloc_when_slab_lost_then_passed_over(void **state)
{
	struct xm_family *f = *state;
	uint64_t slot[8];
	uint32_t hint = 0;

	f->slab[0].state = XM_SLAB_LOST;
	assert_int_equal(take(f, &hint, slot, 8), 8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(slot[i] >> XM_SLAB_SLOT_SHIFT, 2);
}

static void test_alloc_when_hint_beyond_slabs_then_still_found(void **state)
{
	struct xm_family *f = *state;
	uint32_t hint = 4000000000u;
	uint64_t slot;

	assert_int_equal(take(f, &hint, &slot, 1), 1);
}

static void test_put_when_shared_then_free_at_the_last_only(void **state)
{
	struct xm_family *f = *state;
	uint32_t hint = 0;
	uint64_t slot;

	assert_int_equal(take(f, &hint, &slot, 1), 1);
	xm_slots_get(f, slot);
	xm_slots_get(f, slot);
	assert_int_equal(xm_slots_refs(f, slot), 3);
	xm_slots_put(f, slot);
	xm_slots_put(f, slot);
	assert_int_equal(f->slots_used, 1);
	xm_slots_put(f, slot);
	assert_int_equal(xm_slots_refs(f, slot), 0);
	assert_int_equal(f->slots_used, 0);
}

static void test_put_when_last_then_checksum_forgotten(void **state)
{
	struct xm_family *f = *state;
	uint32_t hint = 0;
	uint64_t slot;

	assert_int_equal(take(f, &hint, &slot, 1), 1);
	xm_family_sums(f)[slot] = 0x1234567;
	xm_slots_get(f, slot);
	xm_slots_put(f, slot);
	assert_int_equal(xm_family_sums(f)[slot], 0x1234567);
	xm_slots_put(f, slot);
	assert_int_equal(xm_family_sums(f)[slot], 0);
}

static void test_explicit_when_put_and_get_then_not_counted(void **state)
{
	struct xm_family *f = *state;
	uint64_t slot = (1ull << XM_SLAB_SLOT_SHIFT) + 5;

	xm_slots_get(f, slot);
	xm_slots_put(f, slot);
	xm_slots_put(f, slot);
	assert_int_equal(xm_slots_refs(f, slot), 0);
	assert_int_equal(f->slots_used, 0);
}

static void test_offset_when_slabs_smaller_than_their_numbers_then_dense(void **state)
{
	struct xm_family *f = *state;
	uint64_t third = 2ull << XM_SLAB_SLOT_SHIFT;

	assert_int_equal(xm_slot_offset(f, third), (uint64_t)SLAB_SLOTS * XM_PAGE_SIZE);
	assert_int_equal(xm_slot_offset(f, third + 9), (SLAB_SLOTS + 9ull) * XM_PAGE_SIZE);
}

static void test_take_back_when_in_hand_then_free_and_others_keep_theirs(void **state)
{
	struct xm_family *f = *state;
	uint32_t hint = 0;
	uint64_t slot[8], other;

	assert_int_equal(xm_slots_alloc(f, 5, &hint, slot, 8), 8);
	assert_int_equal(xm_slots_alloc(f, 6, &hint, &other, 1), 1);
	xm_slots_own(f, slot[0]);
	assert_int_equal(xm_slots_refs(f, slot[1]), 1);
	xm_slots_put(f, slot[2]); /* named, but not owned yet: by its word */
	assert_int_equal(f->proc[5].in_hand, 1);
	f->slots_used += 100; /* and it was killed while it was counting */
	xm_slots_take_back(f, 5);
	assert_int_equal(f->proc[5].in_hand, 0);
	assert_int_equal(xm_slots_refs(f, slot[0]), 1);
	for (int i = 1; i < 8; i++)
		assert_int_equal(xm_slots_refs(f, slot[i]), 0);
	assert_int_equal(xm_slots_refs(f, other), 1);
	assert_int_equal(f->slots_used, 2);
	assert_int_equal(xm_slots_count(f), 2);
	assert_int_equal(xm_slots_free(f), 2 * SLAB_SLOTS - 2);
	xm_slots_take_back(f, 6);
	assert_int_equal(xm_slots_refs(f, other), 0);
	assert_int_equal(f->slots_used, 1);
}

/* ---- threads ------------------------------------------------------------------------------------------- */

struct taker {
	pthread_t thread;
	struct xm_family *f;
	uint8_t *owner; /* of each slot; shared by all */
	uint32_t clashes, seed; /* seed: its process number at the start, too */
};

static void *taker_main(void *arg)
{
	struct taker *t = arg;
	uint64_t slot[256];
	uint32_t hint = t->seed, proc = t->seed;

	for (int round = 0; round < 3000; round++) {
		int n = xm_slots_alloc(t->f, proc, &hint, slot, 1 + rand_r(&t->seed) % 200);

		for (int i = 0; i < n; i++)
			t->clashes += __atomic_exchange_n(&t->owner[slot[i]], 1, __ATOMIC_ACQ_REL);
		for (int i = 0; i < n; i++) {
			__atomic_store_n(&t->owner[slot[i]], 0, __ATOMIC_RELEASE);
			xm_slots_put(t->f, slot[i]);
		}
	}
	return NULL;
}

static void test_alloc_when_threads_compete_then_no_slot_twice(void **state)
{
	struct taker t[4];
	uint8_t *owner = calloc(3, XM_SLAB_SLOTS_MAX);

	for (unsigned i = 0; i < 4; i++) {
		t[i] = (struct taker){ .f = *state, .owner = owner, .seed = i + 1 };
		pthread_create(&t[i].thread, NULL, taker_main, &t[i]);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].clashes, 0);
	}
	assert_int_equal(((struct xm_family *)*state)->slots_used, 0);
	assert_int_equal(xm_slots_free(*state), 2 * SLAB_SLOTS);
	free(owner);
}

static void *sharer_main(void *arg)
{
	struct xm_family *f = arg;

	for (int i = 0; i < 100000; i++) {
		xm_slots_get(f, 0);
		xm_slots_put(f, 0);
	}
	return NULL;
}

static void test_counts_when_threads_share_a_slot_then_exact(void **state)
{
	struct xm_family *f = *state;
	pthread_t t[3];
	uint32_t hint = 0;
	uint64_t slot;

	assert_int_equal(take(f, &hint, &slot, 1), 1);
	assert_int_equal(slot, 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, sharer_main, f);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(xm_slots_refs(f, 0), 1);
	assert_int_equal(f->slots_used, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_alloc_when_fresh_then_neighbours, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alloc_when_all_taken_then_none_and_explicit_never_used, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_alloc_when_slab_lost_then_passed_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alloc_when_hint_beyond_slabs_then_still_found, setup, teardown),
		cmocka_unit_test_setup_teardown(test_put_when_shared_then_free_at_the_last_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_put_when_last_then_checksum_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_explicit_when_put_and_get_then_not_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_offset_when_slabs_smaller_than_their_numbers_then_dense, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_take_back_when_in_hand_then_free_and_others_keep_theirs, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_alloc_when_threads_compete_then_no_slot_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counts_when_threads_share_a_slot_then_exact, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
