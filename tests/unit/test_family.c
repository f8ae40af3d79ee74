/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_family.c - the family object: making and mapping it, process entries, charges, and giving back what
 * killed processes held. Children are real processes, killed with SIGKILL; every wait is for an event.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/family.h"
#include "runtime/family_internal.h"
#include "runtime/pagetab.h"
#include "runtime/slots.h"

#define BUDGET (64ull << 20)

static struct xm_family *make_family(const char *uri, uint64_t size_bytes, int *fd)
{
	struct xm_family_config cfg = { .budget_bytes = BUDGET, .size_bytes = size_bytes, .appliances = 1 };
	struct xm_family *f;
	int err = 0;

	strncpy(cfg.appliance[0].uri, uri, sizeof(cfg.appliance[0].uri) - 1);
	f = xm_family_create(&cfg, fd, &err);
	assert_int_equal(err, 0);
	assert_non_null(f);
	return f;
}

static void add_pool_slab(struct xm_family *f, uint32_t state)
{
	struct xm_slab_desc *d = &f->slab[f->nslabs];

	d->slots = XM_SLAB_SLOTS_MAX;
	d->free = d->slots;
	d->state = state;
	f->nslabs++;
}

static int setup(void **state)
{
	struct xm_family *f = make_family("shm:@test", 0, NULL);

	add_pool_slab(f, XM_SLAB_POOL);
	add_pool_slab(f, XM_SLAB_POOL);
	add_pool_slab(f, XM_SLAB_EXPLICIT);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	xm_family_unmap(*state);
	return 0;
}

/* A child that runs fn, says so, and waits to be killed. */
static pid_t start_child(void (*fn)(struct xm_family *f, void *arg), struct xm_family *f, void *arg)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		fn(f, arg);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void kill_child(pid_t pid)
{
	int st;

	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(WIFSIGNALED(st));
}

/* ---- the object --------------------------------------------------------------------------------------- */

static void test_create_then_map_sees_the_same(void **state)
{
	struct xm_family *f, *g;
	int fd, err = 0;

	f = make_family("tcp:127.0.0.1:1", 1ull << 30, &fd);
	assert_int_equal(f->budget_pages, BUDGET / 4096);
	assert_int_equal(f->commit_limit_pages, (1ull << 30) / 4096);
	assert_int_not_equal(f->reap_grace_ns, 0);
	g = xm_family_map(fd, true, &err);
	assert_non_null(g);
	g->slots_used = 77;
	assert_int_equal(f->slots_used, 77);
	assert_string_equal(g->cfg.appliance[0].uri, "tcp:127.0.0.1:1");
	xm_family_unmap(g);
	g = xm_family_map(fd, false, &err);
	assert_non_null(g);
	assert_int_equal(g->slots_used, 77);
	xm_family_unmap(g);
	xm_family_unmap(f);
	close(fd);
}

static void test_create_costs_only_what_is_touched(void **state)
{
	struct xm_family *f;
	struct rusage a, b;

	getrusage(RUSAGE_SELF, &a);
	f = make_family("shm:@test", 0, NULL);
	getrusage(RUSAGE_SELF, &b);
	assert_true(b.ru_minflt - a.ru_minflt < 1000);
	xm_family_unmap(f);
}

static void test_map_foreign_object_is_eproto(void **state)
{
	int fd = memfd_create("other", MFD_CLOEXEC), err = 0;

	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_null(xm_family_map(fd, true, &err));
	assert_int_equal(err, -EPROTO);
	assert_int_equal(ftruncate(fd, (off_t)XM_FAM_BYTES), 0);
	err = 0;
	assert_null(xm_family_map(fd, true, &err));
	assert_int_equal(err, -EPROTO);
	close(fd);
}

static void test_map_other_version_is_eproto(void **state)
{
	struct xm_family *f;
	int fd, err = 0;

	f = make_family("shm:@test", 0, &fd);
	f->header_bytes++;
	assert_null(xm_family_map(fd, true, &err));
	assert_int_equal(err, -EPROTO);
	xm_family_unmap(f);
	close(fd);
}

static void test_create_beyond_file_size_limit_is_efbig(void **state)
{
	struct xm_family_config cfg = { .budget_bytes = BUDGET };
	struct rlimit old, low;
	int err = 0;

	getrlimit(RLIMIT_FSIZE, &old);
	low = old;
	low.rlim_cur = 1 << 20;
	setrlimit(RLIMIT_FSIZE, &low);
	assert_null(xm_family_create(&cfg, NULL, &err));
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(err, -EFBIG);
}

static void test_join_malformed_or_dead_name_fails(void **state)
{
	static const char *const bad[] = { "",
					   "xmem:00",
					   "@x",
					   "@:00000000000000000000000000000000",
					   "@x:0000000000000000000000000000000g",
					   NULL };
	int err;

	for (int i = 0; bad[i]; i++) {
		err = 0;
		assert_null(xm_family_join(bad[i], &err));
		assert_int_equal(err, -EINVAL);
	}
	err = 0;
	assert_null(xm_family_join("@xmem-no-such-keeper:00000000000000000000000000000000", &err));
	assert_int_equal(err, -ECONNREFUSED);
}

/* ---- entries ------------------------------------------------------------------------------------------ */

static void test_claim_then_live_names_this_process(void **state)
{
	struct xm_family *f = *state;
	int i = xm_family_proc_claim(f);

	assert_int_equal(i, 0);
	assert_int_equal(f->proc[i].state, XM_PROC_STARTING);
	assert_int_equal(xm_family_proc_live(f, (uint32_t)i), 0);
	assert_int_equal(f->proc[i].state, XM_PROC_LIVE);
	assert_int_equal(f->proc[i].pid, getpid());
	assert_int_equal(f->proc[i].ppid, getppid());
	assert_int_not_equal(f->proc[i].start_time, 0);
	assert_non_null(strstr(f->proc[i].exe, "test_family"));
	assert_false(xm_family_proc_dead(f, (uint32_t)i));
	assert_false(xm_family_reap(f, (uint32_t)i));
	assert_int_equal(f->procs_live_max, 1);
	assert_int_equal(xm_family_proc_claim(f), 1);
	assert_int_equal(f->procs_high, 2);
}

static void test_drop_gives_an_unused_entry_back(void **state)
{
	struct xm_family *f = *state;
	uint32_t i = (uint32_t)xm_family_proc_claim(f);

	assert_int_equal(xm_family_commit(f, i, 10), 0);
	xm_family_proc_drop(f, i);
	assert_int_equal(f->proc[i].state, XM_PROC_ENDED);
	assert_int_equal(f->committed_pages, 0);
	/* whoever was meant to have it learns that it is gone */
	assert_int_equal(xm_family_proc_live(f, i), -ESTALE);
}

static void test_claim_when_all_taken_reuses_ended_and_keeps_their_sums(void **state)
{
	struct xm_family *f = *state;

	for (uint32_t i = 0; i < XM_MAX_PROCS; i++)
		assert_int_equal(xm_family_proc_claim(f), i);
	assert_int_equal(xm_family_proc_claim(f), -EUSERS);
	f->proc[5].stats.faults_fetch = 3;
	xm_hist_record(&f->proc[5].stats.fetch_ns, 1000);
	xm_family_proc_drop(f, 5);
	assert_int_equal(xm_family_proc_claim(f), 5);
	assert_int_equal(f->proc[5].stats.faults_fetch, 0);
	assert_int_equal(f->ended.faults_fetch, 3);
	assert_int_equal(f->ended.fetch_ns.count, 1);
	assert_int_equal(f->ended_procs, 1);
}

/* As a process leaves them that is killed between its two additions. */
static void test_sums_when_off_for_a_while_then_put_right(void **state)
{
	struct xm_family *f = *state;
	uint32_t i = (uint32_t)xm_family_proc_claim(f);
	uint64_t start = xm_now_ns();

	assert_int_equal(xm_family_commit(f, i, 10), 0);
	f->proc[i].resident = 7;
	f->resident_pages = 7 + 64;
	f->committed_pages -= 3;
	do {
		/* a difference that changes is one that somebody is working on */
		assert_true(f->resident_pages == 7 + 64 || xm_now_ns() - start >= XM_TRUE_UP_NS);
		xm_family_true_up(f);
	} while (f->resident_pages != 7 && xm_now_ns() - start < 20 * XM_TRUE_UP_NS);
	assert_int_equal(f->resident_pages, 7);
	for (start = xm_now_ns(); f->committed_pages != 10 && xm_now_ns() - start < 20 * XM_TRUE_UP_NS;)
		xm_family_true_up(f);
	assert_int_equal(f->committed_pages, 10);
	xm_family_proc_drop(f, i);
	assert_int_equal(f->resident_pages, 0);
	assert_int_equal(f->committed_pages, 0);
}

static void test_live_after_exec_drops_the_former_image(void **state)
{
	struct xm_family *f = *state;
	uint32_t old = (uint32_t)xm_family_proc_claim(f), new;

	assert_int_equal(xm_family_proc_live(f, old), 0);
	assert_int_equal(xm_family_commit(f, old, 10), 0);
	new = (uint32_t)xm_family_proc_claim(f);
	assert_int_equal(xm_family_proc_live(f, new), 0);
	assert_int_equal(f->proc[old].state, XM_PROC_ENDED);
	assert_int_equal(f->proc[new].state, XM_PROC_LIVE);
	assert_int_equal(f->committed_pages, 0);
}

/* Another thread was inside when one called exec: the pid lives on, and nobody else could ever have its locks. */
static void test_live_after_exec_gives_up_what_the_former_image_locked(void **state)
{
	struct xm_family *f = *state;
	uint32_t new = (uint32_t)xm_family_proc_claim(f), locked = (uint32_t)xm_family_proc_claim(f);

	f->grow_owner = getpid();
	f->proc[locked].owner = getpid();
	assert_int_equal(xm_family_proc_live(f, new), 0);
	assert_int_equal(f->grow_owner, 0);
	assert_int_equal(f->proc[locked].owner, 0);
	f->grow_owner = f->proc[locked].owner = getppid();
	xm_family_proc_drop(f, new);
	new = (uint32_t)xm_family_proc_claim(f);
	assert_int_equal(xm_family_proc_live(f, new), 0);
	assert_int_equal(f->grow_owner, getppid()); /* others keep theirs */
	assert_int_equal(f->proc[locked].owner, getppid());
}

/* It exec'd a program that does not use the family. Not so where a later image of it does: that may hold them by right. */
static void test_reap_of_an_image_gives_up_its_locks(void **state)
{
	struct xm_family *f = *state;
	uint32_t old = (uint32_t)xm_family_proc_claim(f), new;

	assert_int_equal(xm_family_proc_live(f, old), 0);
	new = (uint32_t)xm_family_proc_claim(f);
	f->grow_owner = getpid();
	assert_true(xm_family_reap_image(f, old));
	assert_int_equal(f->grow_owner, getpid());
	assert_int_equal(xm_family_proc_live(f, new), 0);
	f->grow_owner = getpid();
	assert_true(xm_family_reap_image(f, new));
	assert_int_equal(f->grow_owner, 0);
}

static void test_live_after_exec_over_a_network_lets_slots_rest(void **state)
{
	struct xm_family *f = *state;
	uint32_t old = (uint32_t)xm_family_proc_claim(f), new;

	f->reap_grace_ns = 3600ull * 1000000000;
	assert_int_equal(xm_family_proc_live(f, old), 0);
	assert_int_equal(xm_family_commit(f, old, 10), 0);
	new = (uint32_t)xm_family_proc_claim(f);
	assert_int_equal(xm_family_proc_live(f, new), 0);
	assert_int_equal(f->proc[old].state, XM_PROC_LIVE);
	assert_int_equal(f->committed_pages, 0);
	assert_false(xm_family_reap(f, old));
	f->reap_grace_ns = 1;
	assert_int_equal(xm_family_reap_dead(f), 1);
	assert_int_equal(f->proc[old].state, XM_PROC_ENDED);
	assert_int_equal(f->proc[new].state, XM_PROC_LIVE);
}

static void test_commit_beyond_limit_is_enomem_and_uncommit_makes_room(void **state)
{
	struct xm_family *f = *state;
	uint32_t i = (uint32_t)xm_family_proc_claim(f);

	f->commit_limit_pages = 100;
	assert_int_equal(xm_family_commit(f, i, 60), 0);
	assert_int_equal(xm_family_commit(f, i, 41), -ENOMEM);
	assert_int_equal(xm_family_commit(f, i, UINT64_MAX), -ENOMEM);
	assert_int_equal(xm_family_commit(f, i, 40), 0);
	assert_int_equal(f->committed_pages, 100);
	xm_family_uncommit(f, i, 70);
	assert_int_equal(f->committed_pages, 30);
	assert_int_equal(f->proc[i].committed, 30);
	/* more than was charged takes nothing from others */
	f->committed_pages += 5;
	xm_family_uncommit(f, i, 1000);
	assert_int_equal(f->committed_pages, 5);
	assert_int_equal(f->committed_pages_max, 100);
}

/* ---- giving back -------------------------------------------------------------------------------------- */

struct held {
	uint32_t index;
	uint64_t shared_slot; /* one that the parent's page table names as well */
};

/* The page's word, entered in the touch map as the runtime does. */
static xm_pte *word(struct xm_family *f, uint32_t index, uint64_t page)
{
	xm_family_touch(f, index)[page >> XM_TOUCH_SHIFT] = 1;
	return &xm_family_pt(f, index)[page];
}

/* Takes slots at both ends of the page table and one that is shared, as a program that evicts would. */
static void hold_slots(struct xm_family *f, void *arg)
{
	static const uint64_t pages[] = { 0, 1, 511, 512, 100000, XM_EXT_PAGES - 1 };
	struct held *h = arg;
	uint64_t slots[9];
	uint32_t hint = 0;

	if (xm_family_proc_live(f, h->index) || xm_slots_alloc(f, h->index, &hint, slots, 9) != 9)
		_exit(1);
	/* one that is named and still in hand, three that are only in hand */
	for (int i = 0; i < 6; i++) {
		*word(f, h->index, pages[i]) = xm_pg_with_slot(XM_PG_REMOTE, slots[i]);
		if (i < 5)
			xm_slots_own(f, slots[i]);
	}
	*word(f, h->index, 700) = xm_pg_with_slot(XM_PG_EVICTING, h->shared_slot);
	xm_slots_get(f, h->shared_slot);
	*word(f, h->index, 701) = xm_pg_with_slot(XM_PG_REMOTE,
						  (2ull << XM_SLAB_SLOT_SHIFT) | 9); /* explicit */
	*word(f, h->index, 702) = XM_PG_RESIDENT | XM_PG_DIRTY;
	f->proc[h->index].pt_pages_high = XM_EXT_PAGES;
	f->proc[h->index].resident = 50;
	xm_add(&f->resident_pages, 50);
	if (xm_family_commit(f, h->index, 1000))
		_exit(1);
}

static uint64_t take_slot(struct xm_family *f)
{
	uint32_t hint = 0;
	uint64_t slot;

	assert_int_equal(xm_slots_alloc(f, 0, &hint, &slot, 1), 1);
	xm_slots_own(f, slot);
	xm_slots_hand_empty(f, 0);
	return slot;
}

static void test_reap_of_a_killed_child_gives_everything_back(void **state)
{
	struct xm_family *f = *state;
	struct held h = { .shared_slot = take_slot(f) };
	xm_pte *pt;
	pid_t pid;

	xm_add(&f->resident_pages, 7);
	h.index = (uint32_t)xm_family_proc_claim(f);
	pid = start_child(hold_slots, f, &h);
	assert_int_equal(f->slots_used, 10);
	assert_int_equal(xm_slots_refs(f, h.shared_slot), 2);
	assert_false(xm_family_reap(f, h.index));
	kill_child(pid);
	assert_true(xm_family_proc_dead(f, h.index));
	assert_true(xm_family_reap(f, h.index));
	assert_false(xm_family_reap(f, h.index));
	assert_int_equal(f->proc[h.index].state, XM_PROC_ENDED);
	assert_int_equal(f->slots_used, 1);
	assert_int_equal(xm_slots_refs(f, h.shared_slot), 1);
	assert_int_equal(xm_slots_free(f), 2 * XM_SLAB_SLOTS_MAX - 1);
	assert_int_equal(f->resident_pages, 7);
	assert_int_equal(f->committed_pages, 0);
	pt = xm_family_pt(f, h.index);
	assert_int_equal(pt[0], 0);
	assert_int_equal(pt[702], 0);
	assert_int_equal(pt[XM_EXT_PAGES - 1], 0);
}

static void test_reap_punches_the_page_table_out(void **state)
{
	struct xm_family *f = *state;
	struct held h = { .shared_slot = take_slot(f) };
	unsigned char there[2] = { 1, 1 };
	uint8_t touched = 1;
	pid_t pid;

	h.index = (uint32_t)xm_family_proc_claim(f);
	pid = start_child(hold_slots, f, &h);
	kill_child(pid);
	assert_int_equal(xm_family_reap_dead(f), 1);
	assert_int_equal(mincore(xm_family_pt(f, h.index), 8192, there), 0);
	assert_int_equal(there[0] & 1, 0);
	assert_int_equal(there[1] & 1, 0);
	assert_int_equal(mincore(xm_family_touch(f, h.index), 1, &touched), 0);
	assert_int_equal(touched & 1, 0);
}

static void test_reap_of_a_zombie_works_before_it_is_waited_for(void **state)
{
	struct xm_family *f = *state;
	struct held h = { .shared_slot = take_slot(f) };
	siginfo_t si;
	pid_t pid;

	h.index = (uint32_t)xm_family_proc_claim(f);
	pid = start_child(hold_slots, f, &h);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
	assert_true(xm_family_reap(f, h.index));
	assert_int_equal(f->slots_used, 1);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_reap_with_network_appliance_lets_slots_rest(void **state)
{
	struct xm_family *f = make_family("tcp:127.0.0.1:1", 0, NULL);
	struct held h;
	pid_t pid;

	add_pool_slab(f, XM_SLAB_POOL);
	h.shared_slot = take_slot(f);
	h.index = (uint32_t)xm_family_proc_claim(f);
	f->reap_grace_ns = 3600ull * 1000000000;
	pid = start_child(hold_slots, f, &h);
	kill_child(pid);
	assert_int_equal(f->resident_pages, 50);
	assert_false(xm_family_reap(f, h.index));
	assert_int_equal(f->slots_used, 10);
	/* its frames are free all the same */
	assert_int_equal(f->resident_pages, 0);
	assert_int_equal(f->committed_pages, 0);
	f->reap_grace_ns = 1;
	assert_true(xm_family_reap(f, h.index));
	assert_int_equal(f->slots_used, 1);
	xm_family_unmap(f);
}

static void claim_and_tell(struct xm_family *f, void *arg)
{
	*(uint32_t *)arg = (uint32_t)xm_family_proc_claim(f);
}

static void test_reap_of_an_entry_whose_claimer_died_waits_for_the_child_to_be(void **state)
{
	struct xm_family *f = *state;
	uint32_t *index = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	kill_child(start_child(claim_and_tell, f, index));
	assert_int_equal(f->proc[*index].state, XM_PROC_STARTING);
	assert_false(xm_family_reap(f, *index));
	/* as if the grace time had passed */
	f->proc[*index].ended_ns -= XM_STARTING_GRACE_NS;
	assert_true(xm_family_reap(f, *index));
	munmap(index, 4096);
}

static void start_reaping(struct xm_family *f, void *arg)
{
	struct xm_proc *p = &f->proc[*(uint32_t *)arg];

	if (!xm_proc_lock(f, p))
		_exit(1);
	xm_store(&p->state, XM_PROC_REAPING);
}

static void test_reap_is_taken_over_from_a_killed_reaper(void **state)
{
	struct xm_family *f = *state;
	struct held h = { .shared_slot = take_slot(f) };
	pid_t member, reaper;

	h.index = (uint32_t)xm_family_proc_claim(f);
	member = start_child(hold_slots, f, &h);
	kill_child(member);
	reaper = start_child(start_reaping, f, &h.index);
	assert_false(xm_family_reap(f, h.index));
	kill_child(reaper);
	assert_true(xm_family_reap(f, h.index));
	assert_int_equal(f->slots_used, 1);
	assert_int_equal(f->committed_pages, 0);
}

static void test_reap_of_another_pid_namespace_never_happens(void **state)
{
	struct xm_family *f = *state;
	struct held h = { .shared_slot = take_slot(f) };

	h.index = (uint32_t)xm_family_proc_claim(f);
	kill_child(start_child(hold_slots, f, &h));
	f->proc[h.index].flags |= XM_PROC_FOREIGN;
	assert_false(xm_family_proc_dead(f, h.index));
	assert_false(xm_family_reap(f, h.index));
	f->proc[h.index].flags = 0;
	f->pidns++;
	assert_false(xm_family_proc_dead(f, h.index));
	f->pidns--;
	assert_true(xm_family_reap(f, h.index));
}

static void test_reap_of_a_reused_pid_notices_the_start_time(void **state)
{
	struct xm_family *f = *state;
	uint32_t i = (uint32_t)xm_family_proc_claim(f);

	assert_int_equal(xm_family_proc_live(f, i), 0);
	assert_false(xm_family_proc_dead(f, i));
	f->proc[i].start_time -= 1;
	assert_true(xm_family_proc_dead(f, i));
}

static void test_reap_of_a_scribbled_page_table_is_survived(void **state)
{
	struct xm_family *f = *state;
	struct held h = { .shared_slot = take_slot(f) };
	pid_t pid;

	h.index = (uint32_t)xm_family_proc_claim(f);
	pid = start_child(hold_slots, f, &h);
	*word(f, h.index, 3000) = ~0ull;
	*word(f, h.index, 3001) = xm_pg_with_slot(XM_PG_REMOTE, 12345); /* a slot that is free */
	kill_child(pid);
	assert_true(xm_family_reap(f, h.index));
	assert_int_equal(f->slots_used, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_then_map_sees_the_same),
		cmocka_unit_test(test_create_costs_only_what_is_touched),
		cmocka_unit_test(test_map_foreign_object_is_eproto),
		cmocka_unit_test(test_map_other_version_is_eproto),
		cmocka_unit_test(test_create_beyond_file_size_limit_is_efbig),
		cmocka_unit_test(test_join_malformed_or_dead_name_fails),
		cmocka_unit_test_setup_teardown(test_claim_then_live_names_this_process, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drop_gives_an_unused_entry_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_claim_when_all_taken_reuses_ended_and_keeps_their_sums,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_sums_when_off_for_a_while_then_put_right, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live_after_exec_drops_the_former_image, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live_after_exec_gives_up_what_the_former_image_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reap_of_an_image_gives_up_its_locks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live_after_exec_over_a_network_lets_slots_rest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commit_beyond_limit_is_enomem_and_uncommit_makes_room,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_reap_of_a_killed_child_gives_everything_back, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_reap_punches_the_page_table_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reap_of_a_zombie_works_before_it_is_waited_for, setup,
						teardown),
		cmocka_unit_test(test_reap_with_network_appliance_lets_slots_rest),
		cmocka_unit_test_setup_teardown(
			test_reap_of_an_entry_whose_claimer_died_waits_for_the_child_to_be, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reap_is_taken_over_from_a_killed_reaper, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_reap_of_another_pid_namespace_never_happens, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_reap_of_a_reused_pid_notices_the_start_time, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_reap_of_a_scribbled_page_table_is_survived, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
