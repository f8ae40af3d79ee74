/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_mapping.c - mapping calls on external memory against a real appliance: addresses, contents of resident and
 * evicted pages, charges, errors as the kernel's, and after each test: nothing left over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "tests/unit/runtime_fixture.h"

#define RW (PROT_READ | PROT_WRITE)
#define PAGE XM_PAGE_SIZE
#define SIZE_PAGES 4096u /* --size */

static int group_setup(void **state)
{
	struct test_config c = { .budget_bytes = 8 << 20, .size_bytes = SIZE_PAGES * PAGE };

	group_start(&c, "128M");
	return 0;
}

/* Pages with contents, every second one on the appliance only. */
static char *mixed(uint64_t pages, uint64_t seed)
{
	char *p = map(pages, RW);

	test_fill(p, pages, seed);
	assert_int_equal(test_evict(p, pages), 0);
	for (uint64_t i = 0; i < pages; i += 2)
		assert_int_equal(((volatile uint64_t *)(p + i * PAGE))[3], test_value(seed, i, 3));
	return p;
}

static void unmap(void *p, uint64_t pages)
{
	assert_int_equal(xm_map_unmap(p, pages * PAGE), 0);
}

/* ---- new, fixed, unmap ------------------------------------------------------------------------------------- */

static void test_new_when_plain_then_zeros_inside_the_range(void **state)
{
	char *p = map(10, RW);

	assert_true(xm_ext_contains(p) && xm_ext_contains(p + 10 * PAGE - 1));
	assert_int_equal((uintptr_t)p % PAGE, 0);
	assert_int_equal(test_not_zero(p, 10), 0);
	unmap(p, 10);
}

static void test_new_when_aligned_then_aligned(void **state)
{
	for (uint64_t align = PAGE; align <= 64 << 20; align *= 4) {
		char *p = xm_map_new(3 * PAGE, align, RW, 0);

		assert_false(test_is_error(p));
		assert_int_equal((uintptr_t)p % align, 0);
		unmap(p, 3);
	}
}

static void test_new_when_length_bad_then_einval_or_enomem(void **state)
{
	assert_int_equal((intptr_t)xm_map_new(0, 0, RW, 0), -EINVAL);
	assert_int_equal((intptr_t)xm_map_new(SIZE_MAX, 0, RW, 0), -EINVAL);
	assert_int_equal((intptr_t)xm_map_new(2 * XM_EXT_BYTES, 0, PROT_NONE, 0), -ENOMEM);
	assert_int_equal((intptr_t)xm_map_new(2 * XM_EXT_BYTES, 0, RW, XM_MAP_NORESERVE), -ENOMEM);
}

static void test_unmap_when_touched_again_then_sigsegv(void **state)
{
	char *p = map(4, RW);

	test_fill(p, 4, 1);
	unmap(p, 4);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	assert_int_equal(test_signal_of(p + 3 * PAGE, true), SIGSEGV);
}

static void test_unmap_when_middle_then_both_sides_keep_contents(void **state)
{
	char *p = mixed(64, 2);

	unmap(p + 20 * PAGE, 24);
	assert_int_equal(test_wrong(p, 20, 2, 0), 0);
	assert_int_equal(test_wrong(p + 44 * PAGE, 20, 2, 44), 0);
	assert_int_equal(test_signal_of(p + 20 * PAGE, false), SIGSEGV);
	unmap(p, 64); /* the hole included, as the kernel has it */
}

static void test_unmap_when_evicted_then_slots_free_at_once(void **state)
{
	char *p = map(256, RW);

	test_fill(p, 256, 3);
	assert_int_equal(test_evict(p, 256), 0);
	assert_int_equal(xm_load(&xm_rt.fam->slots_used), 256);
	unmap(p, 256);
	assert_int_equal(xm_load(&xm_rt.fam->slots_used), 0);
}

static void test_unmap_when_arguments_bad_then_einval(void **state)
{
	char *p = map(2, RW);

	assert_int_equal(xm_map_unmap(p + 1, PAGE), -EINVAL);
	assert_int_equal(xm_map_unmap(p, 0), -EINVAL);
	assert_int_equal(xm_map_unmap((void *)(xm_ext_hi - PAGE), 2 * PAGE), -EINVAL);
	unmap(p, 2);
}

static void test_fixed_when_over_own_pages_then_zeros_there_only(void **state)
{
	char *p = mixed(32, 4);

	assert_ptr_equal(xm_map_fixed(p + 8 * PAGE, 8 * PAGE, RW, 0, false), p + 8 * PAGE);
	assert_int_equal(test_wrong(p, 8, 4, 0), 0);
	assert_int_equal(test_not_zero(p + 8 * PAGE, 8), 0);
	assert_int_equal(test_wrong(p + 16 * PAGE, 16, 4, 16), 0);
	unmap(p, 32);
}

static void test_fixed_when_noreplace_then_eexist_only_where_mapped(void **state)
{
	char *p = map(8, RW);

	assert_int_equal((intptr_t)xm_map_fixed(p + 7 * PAGE, 2 * PAGE, RW, 0, true), -EEXIST);
	unmap(p, 8);
	assert_ptr_equal(xm_map_fixed(p, 8 * PAGE, RW, 0, true), p);
	unmap(p, 8);
	assert_int_equal((intptr_t)xm_map_fixed(p + 8, PAGE, RW, 0, true), -EINVAL);
	assert_int_equal((intptr_t)xm_map_fixed(p, 0, RW, 0, false), -EINVAL);
}

static void test_foreign_when_file_mapped_inside_then_the_kernels_until_unmapped(void **state)
{
	int fd = (int)syscall(SYS_memfd_create, "foreign", 0);
	char *p = mixed(16, 5);

	assert_int_equal(ftruncate(fd, 4 * (off_t)PAGE), 0);
	assert_int_equal(pwrite(fd, "file", 4, 0), 4);
	assert_int_equal(xm_map_foreign(p + 4 * PAGE, 4 * PAGE), 0);
	assert_ptr_equal(mmap(p + 4 * PAGE, 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0), p + 4 * PAGE);
	assert_memory_equal(p + 4 * PAGE, "file", 4);
	assert_int_equal(test_wrong(p, 4, 5, 0), 0);
	assert_int_equal(test_wrong(p + 8 * PAGE, 8, 5, 8), 0);
	unmap(p, 16);
	assert_int_equal(test_signal_of(p + 4 * PAGE, false), SIGSEGV);
	close(fd);
}

/* ---- protection and charge --------------------------------------------------------------------------------- */

static void test_protect_when_none_or_read_then_sigsegv_and_contents_kept(void **state)
{
	char *p = mixed(32, 6);

	assert_int_equal(xm_map_protect(p, 32 * PAGE, PROT_NONE), 0);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	assert_int_equal(test_signal_of(p + PAGE, false), SIGSEGV);
	assert_int_equal(test_evict(p, 32), 0);
	assert_int_equal(xm_map_protect(p, 32 * PAGE, PROT_READ), 0);
	assert_int_equal(test_wrong(p, 32, 6, 0), 0);
	assert_int_equal(test_signal_of(p + 5 * PAGE, true), SIGSEGV);
	assert_int_equal(test_evict(p, 32), 0);
	assert_int_equal(xm_map_protect(p, 32 * PAGE, RW), 0);
	assert_int_equal(test_signal_of(p + 5 * PAGE, true), 0);
	assert_int_equal(test_wrong(p, 5, 6, 0), 0);
	unmap(p, 32);
}

/* A page that came in clean and is made writable by mprotect must still be seen to be written. */
static void test_protect_when_clean_page_written_after_then_write_kept(void **state)
{
	char *p = mixed(16, 7);

	assert_int_equal(test_evict(p, 16), 0);
	assert_int_equal(test_wrong(p, 16, 7, 0), 0);
	assert_int_equal(xm_map_protect(p, 16 * PAGE, PROT_READ), 0);
	assert_int_equal(xm_map_protect(p, 16 * PAGE, RW), 0);
	test_fill(p, 16, 8);
	assert_int_equal(test_evict(p, 16), 0);
	assert_int_equal(test_wrong(p, 16, 8, 0), 0);
	unmap(p, 16);
}

static void test_protect_when_hole_then_enomem(void **state)
{
	char *p = map(8, RW);

	unmap(p + 4 * PAGE, 1);
	assert_int_equal(xm_map_protect(p, 8 * PAGE, PROT_READ), -ENOMEM);
	unmap(p, 8);
}

static void test_charge_when_size_reached_then_enomem_until_unmapped(void **state)
{
	char *p = map(SIZE_PAGES - 10, RW), *q;

	assert_int_equal((intptr_t)xm_map_new(11 * PAGE, 0, RW, 0), -ENOMEM);
	q = xm_map_new(11 * PAGE, 0, PROT_NONE, 0);
	assert_false(test_is_error(q));
	assert_int_equal(xm_map_protect(q, 11 * PAGE, RW), -ENOMEM);
	assert_int_equal(xm_map_protect(q, 10 * PAGE, RW), 0);
	assert_int_equal((intptr_t)xm_map_new(PAGE, 0, RW, 0), -ENOMEM);
	unmap(p, SIZE_PAGES - 10);
	assert_int_equal(xm_map_protect(q, 11 * PAGE, RW), 0);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 11);
	unmap(q, 11);
}

static void test_charge_when_noreserve_then_none(void **state)
{
	char *p = xm_map_new(2 * SIZE_PAGES * PAGE, 0, RW, XM_MAP_NORESERVE);

	assert_false(test_is_error(p));
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 0);
	unmap(p, 2 * SIZE_PAGES);
}

static void test_charge_when_protect_fails_then_given_back(void **state)
{
	char *p = map(100, PROT_NONE);

	assert_int_equal(xm_map_protect(p, 100 * PAGE, RW | 0x40000000), -EINVAL);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 0);
	unmap(p, 100);
}

static void test_charge_when_remapped_then_follows_the_length(void **state)
{
	char *p = map(100, RW), *q;

	q = xm_map_remap(p, 100 * PAGE, 40 * PAGE, 0, NULL);
	assert_ptr_equal(q, p);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 40);
	q = xm_map_remap(p, 40 * PAGE, 300 * PAGE, MREMAP_MAYMOVE, NULL);
	assert_false(test_is_error(q));
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 300);
	assert_int_equal((intptr_t)xm_map_remap(q, 300 * PAGE, (SIZE_PAGES + 1) * PAGE, MREMAP_MAYMOVE, NULL), -ENOMEM);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 300);
	unmap(q, 300);
}

/* Parts of one mapping that are charged differently keep their own accounts when they move. */
static void test_charge_when_mixed_mapping_moves_then_exact(void **state)
{
	char *p = xm_map_new(64 * PAGE, 0, RW, XM_MAP_NORESERVE), *q;

	assert_ptr_equal(xm_map_fixed(p + 16 * PAGE, 8 * PAGE, RW, 0, false), p + 16 * PAGE);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 8);
	q = xm_map_remap(p, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, map(64, PROT_NONE));
	assert_false(test_is_error(q));
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 8);
	unmap(q, 64);
}

/* ---- mremap -------------------------------------------------------------------------------------------------- */

static void test_remap_when_moved_then_contents_follow(void **state)
{
	char *p = mixed(64, 9), *to = map(64, PROT_NONE);

	assert_ptr_equal(xm_map_remap(p, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(test_wrong(to, 64, 9, 0), 0);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	assert_int_equal(test_evict(to, 64), 0);
	assert_int_equal(test_wrong(to, 64, 9, 0), 0);
	unmap(to, 64);
}

/* The kernel merges a moved mapping that was never touched with its neighbours, and would take theirs out of the
 * userfaultfd together with it: they must stay external. */
static void check_neighbours(char *p, uint64_t seed)
{
	char *all = map(96, RW);

	test_fill(all, 96, 10);
	assert_int_equal(test_evict(all, 96), 0);
	assert_ptr_equal(xm_map_remap(p, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, all + 32 * PAGE),
			 all + 32 * PAGE);
	assert_int_equal(test_wrong(all, 32, 10, 0), 0);
	if (seed)
		assert_int_equal(test_wrong(all + 32 * PAGE, 32, seed, 0), 0);
	else
		assert_int_equal(test_not_zero(all + 32 * PAGE, 32), 0);
	assert_int_equal(test_wrong(all + 64 * PAGE, 32, 10, 64), 0);
	assert_int_equal(test_evict(all, 96), 0);
	assert_int_equal(test_wrong(all + 64 * PAGE, 32, 10, 64), 0);
	unmap(all, 96);
}

static void test_remap_when_between_neighbours_then_theirs_stay(void **state)
{
	check_neighbours(mixed(32, 11), 11);
}

static void test_remap_when_fresh_between_neighbours_then_theirs_stay(void **state)
{
	char *p = map(34, PROT_NONE); /* so that the kernel's mapping in the middle is one of its own */

	assert_int_equal(xm_map_protect(p + PAGE, 32 * PAGE, RW), 0);
	check_neighbours(p + PAGE, 0);
	unmap(p, 34);
}

static void test_remap_when_grown_then_old_contents_and_zeros(void **state)
{
	char *p = mixed(16, 12), *wall = NULL, *q;

	q = xm_map_remap(p, 16 * PAGE, 32 * PAGE, 0, NULL);
	if (test_is_error(q)) { /* something lies behind it */
		assert_int_equal((intptr_t)q, -ENOMEM);
		q = xm_map_remap(p, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE, NULL);
	}
	assert_false(test_is_error(q));
	assert_int_equal(test_wrong(q, 16, 12, 0), 0);
	assert_int_equal(test_not_zero(q + 16 * PAGE, 16), 0);
	wall = xm_map_fixed(q + 32 * PAGE, PAGE, RW, 0, true);
	assert_false(test_is_error(wall));
	assert_int_equal((intptr_t)xm_map_remap(q, 32 * PAGE, 33 * PAGE, 0, NULL), -ENOMEM);
	p = xm_map_remap(q, 32 * PAGE, 33 * PAGE, MREMAP_MAYMOVE, NULL);
	assert_false(test_is_error(p));
	assert_ptr_not_equal(p, q);
	assert_int_equal(test_wrong(p, 16, 12, 0), 0);
	assert_int_equal(test_not_zero(p + 16 * PAGE, 17), 0);
	unmap(p, 33);
	unmap(wall, 1);
}

static void test_remap_when_dontunmap_then_old_place_is_zeros(void **state)
{
	char *p = mixed(32, 13), *q;

	q = xm_map_remap(p, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	assert_false(test_is_error(q));
	assert_int_equal(test_wrong(q, 32, 13, 0), 0);
	assert_int_equal(test_not_zero(p, 32), 0);
	test_fill(p, 32, 14);
	assert_int_equal(test_evict(p, 32) + test_evict(q, 32), 0);
	assert_int_equal(test_wrong(p, 32, 14, 0), 0);
	assert_int_equal(test_wrong(q, 32, 13, 0), 0);
	assert_int_equal(xm_load(&xm_rt.fam->committed_pages), 64);
	unmap(p, 32);
	unmap(q, 32);
}

struct toucher {
	pthread_t thread;
	char *p;
	uint64_t pages, seed;
	uint32_t stop;
	uint64_t wrong;
};

/* Reads pages all the time: what it sees is what was there, or nothing any more. */
static void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	for (uint64_t i = 0; !xm_load(&t->stop); i = (i * 5 + 1) % t->pages) {
		uint64_t v = ((volatile uint64_t *)(t->p + i * PAGE))[3];

		t->wrong += v != 0 && v != test_value(t->seed, i, 3);
	}
	return NULL;
}

static void test_remap_when_dontunmap_and_touched_meanwhile_then_nothing_lost(void **state)
{
	for (uint64_t round = 0; round < 30; round++) {
		char *before = mixed(4, 70), *p = mixed(256, round), *after = mixed(4, 71), *q;
		struct toucher t = { .p = p, .pages = 256, .seed = round };

		assert_int_equal(test_evict(p, 256), 0);
		pthread_create(&t.thread, NULL, toucher_main, &t);
		q = xm_map_remap(p, 256 * PAGE, 256 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		xm_store(&t.stop, 1);
		pthread_join(t.thread, NULL);
		assert_false(test_is_error(q));
		assert_int_equal(t.wrong, 0);
		assert_int_equal(test_wrong(q, 256, round, 0), 0);
		assert_int_equal(test_not_zero(p, 256), 0);
		/* still external: they, and what lies beside them */
		test_evict(q, 256);
		assert_int_equal(test_wrong(q, 256, round, 0), 0);
		assert_int_equal(test_wrong(before, 4, 70, 0) + test_wrong(after, 4, 71, 0), 0);
		unmap(p, 256);
		unmap(q, 256);
		unmap(before, 4);
		unmap(after, 4);
	}
}

/* What grew in place after a move is two mappings to the kernel. */
static void test_remap_when_grown_after_a_move_then_moves_again(void **state)
{
	for (int flags = MREMAP_MAYMOVE; flags; flags = flags == MREMAP_MAYMOVE ? MREMAP_MAYMOVE | MREMAP_DONTUNMAP : 0) {
		char *p = mixed(32, 30), *room = map(256, RW), *q, *to;

		assert_ptr_equal(xm_map_remap(p, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room), room);
		unmap(room + 32 * PAGE, 224);
		q = xm_map_remap(room, 32 * PAGE, 77 * PAGE, 0, NULL);
		assert_ptr_equal(q, room);
		test_fill(q + 32 * PAGE, 45, 31);
		to = xm_map_remap(q, 77 * PAGE, 77 * PAGE, flags | MREMAP_FIXED, map(77, RW));
		assert_false(test_is_error(to));
		assert_int_equal(test_evict(to, 77), 0);
		assert_int_equal(test_wrong(to, 32, 30, 0) + test_wrong(to + 32 * PAGE, 45, 31, 0), 0);
		if (flags & MREMAP_DONTUNMAP) {
			assert_int_equal(test_not_zero(q, 77), 0);
			unmap(q, 77);
		}
		unmap(to, 77);
	}
}

static void test_remap_when_protections_differ_then_each_keeps_its_own(void **state)
{
	char *p = mixed(64, 32), *to = map(64, RW);

	assert_int_equal(xm_map_protect(p + 8 * PAGE, 8 * PAGE, PROT_NONE), 0);
	assert_int_equal(xm_map_protect(p + 32 * PAGE, 8 * PAGE, PROT_READ), 0);
	assert_ptr_equal(xm_map_remap(p, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(test_signal_of(to + 8 * PAGE, false), SIGSEGV);
	assert_int_equal(test_signal_of(to + 15 * PAGE, false), SIGSEGV);
	assert_int_equal(test_signal_of(to + 32 * PAGE, true), SIGSEGV);
	assert_int_equal(xm_map_protect(to + 8 * PAGE, 8 * PAGE, RW), 0);
	assert_int_equal(test_wrong(to, 64, 32, 0), 0);
	unmap(to, 64);
}

static void *reader_main(void *arg)
{
	struct toucher *t = arg;

	for (uint64_t i = 0; !xm_load(&t->stop); i++) {
		char byte;
		struct iovec to = { &byte, 1 }, from = { t->p + i * 37 % t->pages * PAGE, 1 };

		xm_sys_vm_readv(&to, 1, &from, 1);
	}
	return NULL;
}

/* The kernel itself reads the destination all the time: it must never see, and leave, a page of zeros. */
static void test_remap_when_target_read_meanwhile_then_contents_arrive(void **state)
{
	for (uint64_t round = 0; round < 30; round++) {
		char *p = mixed(256, round), *to = map(256, RW);
		struct toucher t = { .p = to, .pages = 256 };

		pthread_create(&t.thread, NULL, reader_main, &t);
		assert_ptr_equal(xm_map_remap(p, 256 * PAGE, 256 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to), to);
		xm_store(&t.stop, 1);
		pthread_join(t.thread, NULL);
		assert_int_equal(test_wrong(to, 256, round, 0), 0);
		assert_int_equal(test_not_zero(p, 256), 0);
		unmap(p, 256);
		unmap(to, 256);
	}
}

static void test_remap_when_beside_itself_then_both_places_stay_external(void **state)
{
	char *room = map(128, PROT_NONE);

	assert_int_equal(xm_map_protect(room, 64 * PAGE, RW), 0);
	assert_ptr_equal(xm_map_remap(room, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
				      room + 64 * PAGE),
			 room + 64 * PAGE);
	test_fill(room, 128, 5);
	assert_int_equal(test_evict(room, 128), 0);
	assert_int_equal(test_pages_in(room, 128, XM_PG_REMOTE), 128);
	assert_int_equal(test_wrong(room, 128, 5, 0), 0);
	unmap(room, 128);
}

/* No room for the new mapping: all is as before, and what is written afterwards is not lost. */
static void test_remap_when_it_fails_then_later_writes_count(void **state)
{
	char *p = mixed(64, 6);
	struct rlimit old, little;
	void *rc;

	getrlimit(RLIMIT_AS, &old);
	little = (struct rlimit){ 1 << 20, old.rlim_max };
	setrlimit(RLIMIT_AS, &little);
	rc = xm_map_remap(p, 64 * PAGE, 4096 * PAGE, MREMAP_MAYMOVE, NULL);
	setrlimit(RLIMIT_AS, &old);
	assert_int_equal((intptr_t)rc, -ENOMEM);
	test_fill(p, 64, 7);
	assert_int_equal(test_evict(p, 64), 0);
	assert_int_equal(test_wrong(p, 64, 7, 0), 0);
	unmap(p, 64);
}

/* Whether the kernel would leave the address out of a core dump. */
static bool left_out_of_dumps(const void *at)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long lo, hi;
	bool here = false, out = false;
	char line[400];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
			here = (uintptr_t)at >= lo && (uintptr_t)at < hi;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			out = strstr(line, " dd") != NULL;
	}
	if (f)
		fclose(f);
	return out;
}

static void test_remap_when_not_to_be_dumped_then_still_not(void **state)
{
	char *p = mixed(16, 33), *to = map(64, RW);

	assert_int_equal(xm_map_advise(p, 16 * PAGE, MADV_DONTDUMP), 0);
	assert_ptr_equal(xm_map_remap(p, 16 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_true(left_out_of_dumps(to) && left_out_of_dumps(to + 31 * PAGE));
	assert_false(left_out_of_dumps(to + 32 * PAGE));
	assert_int_equal(xm_map_advise(to, 32 * PAGE, MADV_DODUMP), 0);
	assert_false(left_out_of_dumps(to));
	unmap(to, 64);
}

static void test_remap_when_locked_and_grown_then_the_new_part_is_locked(void **state)
{
	char *p = map(8, RW);

	assert_int_equal(xm_map_lock(p, 8 * PAGE), 0);
	p = xm_map_remap(p, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, map(16, RW));
	assert_false(test_is_error(p));
	assert_int_equal(test_pages_become(p, 16, XM_PG_RESIDENT, 16), 16);
	for (uint64_t i = 0; i < 16; i++)
		assert_true(xm_pg_load(&xm_rt.pt[xm_page_of(p) + i]) & XM_PG_PINNED);
	unmap(p, 16);
}

static void test_remap_when_a_file_is_in_it_then_efault(void **state)
{
	char *p = mixed(32, 8);

	assert_int_equal(xm_map_foreign(p + 16 * PAGE, 16 * PAGE), 0);
	assert_int_equal((intptr_t)xm_map_remap(p, 32 * PAGE, 64 * PAGE, MREMAP_MAYMOVE, NULL), -EFAULT);
	assert_int_equal(test_wrong(p, 16, 8, 0), 0);
	unmap(p, 32);
}

static void test_remap_when_target_outside_then_ordinary_memory(void **state)
{
	char *to = mmap(NULL, 32 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *p = mixed(32, 15);

	assert_ptr_equal(xm_map_remap(p, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(test_wrong(to, 32, 15, 0), 0);
	assert_int_equal(test_signal_of(p, false), SIGSEGV);
	munmap(to, 32 * PAGE);
}

static void test_remap_when_arguments_bad_then_as_the_kernel(void **state)
{
	char *p = map(8, RW);
	const struct {
		size_t old_len, new_len;
		int flags;
		char *to;
		int rc;
	} bad[] = {
		{ 8 * PAGE, 0, MREMAP_MAYMOVE, NULL, -EINVAL },
		{ 8 * PAGE, 8 * PAGE, 0x80, NULL, -EINVAL },
		{ 8 * PAGE, 8 * PAGE, MREMAP_FIXED, p + 64 * PAGE, -EINVAL },
		{ 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 4 * PAGE, -EINVAL },
		{ 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 64 * PAGE + 8, -EINVAL },
		{ 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)xm_ext_hi - PAGE, -EINVAL },
		{ 8 * PAGE, 9 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL, -EINVAL },
		{ 8 * PAGE, 8 * PAGE, MREMAP_DONTUNMAP, NULL, -EINVAL },
	};

	for (unsigned i = 0; i < XM_ARRAY_SIZE(bad); i++)
		assert_int_equal((intptr_t)xm_map_remap(p, bad[i].old_len, bad[i].new_len, bad[i].flags, bad[i].to),
				 bad[i].rc);
	assert_int_equal((intptr_t)xm_map_remap(p + 64 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE, NULL), -EFAULT);
	assert_int_equal(test_signal_of(p, true), 0);
	unmap(p, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_teardown(name, nothing_left)
		T(test_new_when_plain_then_zeros_inside_the_range),
		T(test_new_when_aligned_then_aligned),
		T(test_new_when_length_bad_then_einval_or_enomem),
		T(test_unmap_when_touched_again_then_sigsegv),
		T(test_unmap_when_middle_then_both_sides_keep_contents),
		T(test_unmap_when_evicted_then_slots_free_at_once),
		T(test_unmap_when_arguments_bad_then_einval),
		T(test_fixed_when_over_own_pages_then_zeros_there_only),
		T(test_fixed_when_noreplace_then_eexist_only_where_mapped),
		T(test_foreign_when_file_mapped_inside_then_the_kernels_until_unmapped),
		T(test_protect_when_none_or_read_then_sigsegv_and_contents_kept),
		T(test_protect_when_clean_page_written_after_then_write_kept),
		T(test_protect_when_hole_then_enomem),
		T(test_charge_when_size_reached_then_enomem_until_unmapped),
		T(test_charge_when_noreserve_then_none),
		T(test_charge_when_protect_fails_then_given_back),
		T(test_charge_when_remapped_then_follows_the_length),
		T(test_charge_when_mixed_mapping_moves_then_exact),
		T(test_remap_when_moved_then_contents_follow),
		T(test_remap_when_between_neighbours_then_theirs_stay),
		T(test_remap_when_fresh_between_neighbours_then_theirs_stay),
		T(test_remap_when_grown_then_old_contents_and_zeros),
		T(test_remap_when_dontunmap_then_old_place_is_zeros),
		T(test_remap_when_dontunmap_and_touched_meanwhile_then_nothing_lost),
		T(test_remap_when_grown_after_a_move_then_moves_again),
		T(test_remap_when_protections_differ_then_each_keeps_its_own),
		T(test_remap_when_target_read_meanwhile_then_contents_arrive),
		T(test_remap_when_beside_itself_then_both_places_stay_external),
		T(test_remap_when_it_fails_then_later_writes_count),
		T(test_remap_when_not_to_be_dumped_then_still_not),
		T(test_remap_when_locked_and_grown_then_the_new_part_is_locked),
		T(test_remap_when_a_file_is_in_it_then_efault),
		T(test_remap_when_target_outside_then_ordinary_memory),
		T(test_remap_when_arguments_bad_then_as_the_kernel),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
