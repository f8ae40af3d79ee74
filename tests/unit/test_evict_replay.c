/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_evict_replay.c - what the runtime tells an eviction policy while two threads use memory and is answered is recorded,
 * call by call; a fresh policy that is told the same decides the same. So a recorded trace explains a decision.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/mman.h>

#include "runtime/policy/policy.h"
#include "tests/harness.h"
#include "traces.h"

#define PAGE XM_PAGE_SIZE
#define BUDGET_PAGES 1024u
#define PAGES (4 * BUDGET_PAGES)
#define TRACE_WORDS (32u << 20) /* address space; what is used is a few MiB */

const struct xm_evict_ops *__real_xm_evict_find(const char *name);
const struct xm_evict_ops *__wrap_xm_evict_find(const char *name);

/* ---- the trace ---------------------------------------------------------------------------------------------------- */

/* One word a call or an answer. INSERTED page refault | PICK n scan_limit, ASKED page fact .., CHOSE k, victims | SIZE n */
enum word { INSERTED = 1, PICK, ASKED, CHOSE, SIZE };

static uint64_t *trace;
static size_t words;
static uint64_t chosen;
static const struct xm_evict_ops *real;

/* Under the policy's lock, in threads of the runtime's: no allocation. */
static void put(uint64_t word)
{
	if (words == TRACE_WORDS)
		test_die("the trace is full");
	trace[words++] = word;
}

static size_t state_bytes(uint64_t capacity_pages)
{
	return real->state_bytes(capacity_pages);
}

static void init(void *state, uint64_t capacity_pages)
{
	words = 0;
	chosen = 0;
	real->init(state, capacity_pages);
}

static void inserted(void *state, uint64_t page, int refault)
{
	put(INSERTED);
	put(page);
	put((uint64_t)refault);
	real->inserted(state, page, refault);
}

static enum xm_page_fact ask(void *ctx, uint64_t page)
{
	const struct xm_evict_view *of_runtime = ctx;
	enum xm_page_fact fact = of_runtime->query(of_runtime->ctx, page);

	put(ASKED);
	put(page);
	put(fact);
	return fact;
}

static int pick(void *state, const struct xm_evict_view *view, uint64_t *pages, int n, int scan_limit)
{
	struct xm_evict_view of_runtime = *view, mine = { ask, &of_runtime };
	int k;

	put(PICK);
	put((uint64_t)n);
	put((uint64_t)scan_limit);
	k = real->pick(state, &mine, pages, n, scan_limit);
	put(CHOSE);
	put((uint64_t)k);
	for (int i = 0; i < k; i++)
		put(pages[i]);
	chosen += (uint64_t)k;
	return k;
}

static uint64_t size(void *state)
{
	uint64_t n = real->size(state);

	put(SIZE);
	put(n);
	return n;
}

const struct xm_evict_ops *__wrap_xm_evict_find(const char *name)
{
	static struct xm_evict_ops recorder = { NULL, state_bytes, init, inserted, pick, size };

	real = __real_xm_evict_find(name);
	recorder.name = real ? real->name : NULL;
	return real ? &recorder : NULL;
}

/* ---- the replay --------------------------------------------------------------------------------------------------- */

struct replay {
	size_t at;
	bool apart; /* it asked for something else, or chose otherwise */
};

static bool next_is(struct replay *r, uint64_t word)
{
	r->apart = r->apart || r->at >= words || trace[r->at++] != word;
	return !r->apart;
}

static enum xm_page_fact answer(void *ctx, uint64_t page)
{
	struct replay *r = ctx;

	if (!next_is(r, ASKED) || !next_is(r, page))
		return XM_PAGE_GONE;
	return (enum xm_page_fact)trace[r->at++];
}

static void replay_pick(struct replay *r, void *state)
{
	const struct xm_evict_view view = { answer, r };
	int n = (int)trace[r->at], limit = (int)trace[r->at + 1], k;
	uint64_t pages[XM_PAGE_SIZE / 8];

	assert_true(n <= (int)XM_ARRAY_SIZE(pages));
	r->at += 2;
	k = real->pick(state, &view, pages, n, limit);
	next_is(r, CHOSE);
	next_is(r, (uint64_t)k);
	for (int i = 0; i < k && !r->apart; i++)
		next_is(r, pages[i]);
}

/* Where the decisions part, or words. */
static size_t replay(uint64_t capacity)
{
	struct replay r = { 0 };
	void *state = calloc(1, real->state_bytes(capacity));

	assert_non_null(state);
	real->init(state, capacity);
	while (r.at < words && !r.apart) {
		switch ((enum word)trace[r.at++]) {
		case INSERTED:
			real->inserted(state, trace[r.at], (int)trace[r.at + 1]);
			r.at += 2;
			break;
		case PICK:
			replay_pick(&r, state);
			break;
		case SIZE:
			next_is(&r, real->size(state));
			break;
		default:
			fail_msg("no call starts at word %zu", r.at - 1);
		}
	}
	free(state);
	return r.apart ? r.at : words;
}

/* ---- what is recorded --------------------------------------------------------------------------------------------- */

struct user {
	pthread_t thread;
	char *at;
	uint64_t seed;
};

/* A hot eighth and a cold rest, read and written; and now and then in order. */
static void *use_main(void *arg)
{
	struct user *u = arg;

	for (int i = 0; i < 30000; i++) {
		uint64_t r = test_random(&u->seed), page = r % 4 ? r / 4 % (PAGES / 8) : r / 4 % PAGES;
		uint64_t *p = (uint64_t *)(void *)(u->at + page * PAGE);

		if (r >> 60 == 0)
			xm_store(p, r);
		else
			xm_load(p);
		for (uint64_t more = 1; r >> 54 == 1 && more < 64 && page + more < PAGES; more++)
			xm_load(p + more * (PAGE / 8));
	}
	return NULL;
}

static void record(const char *policy, uint64_t seed)
{
	struct test_config c = { .budget_bytes = BUDGET_PAGES * PAGE, .evict = policy };
	struct test_appliance appliance;
	struct user user[2];
	char *p;

	test_appliance_start(&appliance, "64M", "shm");
	test_runtime_start(&c, &appliance, 1);
	p = xm_map_new(PAGES * PAGE, 0, PROT_READ | PROT_WRITE, 0);
	assert_false(test_is_error(p));
	test_fill(p, PAGES, 1);
	for (int i = 0; i < 2; i++) {
		user[i] = (struct user){ .at = p, .seed = seed + (uint64_t)i };
		assert_int_equal(pthread_create(&user[i].thread, NULL, use_main, &user[i]), 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(user[i].thread, NULL);
	assert_int_equal(xm_map_unmap(p, PAGES * PAGE), 0);
	test_runtime_stop();
	assert_int_equal(test_appliance_stop(&appliance), 0);
}

static void test_replay_when_recorded_from_the_runtime_then_same_decisions(void **state)
{
	uint64_t seed = test_seed("replay");

	for (const char *const *name = xm_evict_names; *name; name++) {
		record(*name, seed);
		printf("%s: %zu words, %lu victims\n", *name, words, chosen);
		assert_true(chosen > PAGES);
		assert_true(replay(BUDGET_PAGES) == words);
	}
}

/* One answer changed: the test above would not have held. */
static void test_replay_when_an_answer_differs_then_decisions_part(void **state)
{
	size_t i;

	record(xm_evict_names[0], test_seed("differs"));
	for (i = words / 2; i + 2 < words && !(trace[i] == CHOSE && trace[i + 1] > 0 && trace[i - 3] == ASKED); i++)
		;
	assert_true(i + 2 < words && trace[i - 1] == XM_PAGE_IDLE);
	trace[i - 1] = XM_PAGE_HELD;
	assert_true(replay(BUDGET_PAGES) < words);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replay_when_recorded_from_the_runtime_then_same_decisions),
		cmocka_unit_test(test_replay_when_an_answer_differs_then_decisions_part),
	};

	trace = mmap(NULL, TRACE_WORDS * sizeof(*trace), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (trace == MAP_FAILED)
		return 1;
	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
