/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stress.c - threads that read, write, map, unmap, remap, protect, advise, pin and fork external memory at random,
 * against a mirror in ordinary memory (mirror.h); forked children verify their snapshot, and write, while the
 * parent goes on. At the end nothing may be left: frames, slots, charges, pins, page words.
 *
 *   stress [--seed N] [--seconds S] [--threads T] [--local MIB] [--link shm|tcp|verbs | --uri URI] [--inject SPEC]
 *          [--mask FEATURE,...] [--evict NAME] [--prefetch NAME] [--handlers N] [--verify] [--pins] [--no-fork]
 *          [--kills] [--only OP,...] [--watch S]
 *
 * Without --uri it starts an appliance of its own. XMEM_MASK is the default of --mask; XMEM_LEVEL=all makes the
 * default duration minutes. Exit status 0, or 1 with lines on stderr that say what was wrong; the seed is printed
 * first. One seed repeats the same calls of each thread, not their interleaving.
 *
 * Threads: the workers, and main, which watches them: an operation that lasts longer than --watch (60 s) is a hang.
 */
#include "tests/stress/mirror.h"

#include <getopt.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "xmem.h"

#define AREAS 8
#define AREA_PAGES 1024
#define SHARED_PAGES 1024
#define TOUCH_MAX 192
#define THREADS_MAX 16
#define CHILDREN_MAX 2
#define CHILDREN_ALL 3	/* at once, of all threads: they share one budget */
#define WINDOW_PAGES 512
#define WATCH_S 60
#define PORTIONS_BYTES (32ull << 20)

struct worker {
	pthread_t thread;
	unsigned index;
	uint64_t random;
	uint32_t next_key;
	struct area area[AREAS];
	uint64_t ops;	  /* atomic */
	uint32_t running; /* atomic */
	const char *op; /* atomic: for whoever asks why it hangs */
	pid_t child[CHILDREN_MAX];
	bool doomed[CHILDREN_MAX]; /* to be killed at some moment of its life */
	int file;
};

static struct options {
	unsigned seconds, threads, watch;
	const char *link;
	bool no_fork, pins, kills;
	const char *uri, *only;
	struct test_config rt;
} opt = { .threads = 3, .link = "shm", .watch = WATCH_S };

static struct worker worker[THREADS_MAX];
static struct area shared; /* block b of page p: thread (p + b) % threads */
static struct xmem *api;
static struct xmem_region *portions, *windows;
static pthread_rwlock_t world = PTHREAD_RWLOCK_INITIALIZER; /* operations: read; a fork that stops the world: write */
static uint32_t stopping;				    /* atomic */
static uint64_t forks;
static uint32_t children; /* atomic */

static uint64_t rnd(struct worker *w, uint64_t below)
{
	return next_random(&w->random) % below;
}

static uint32_t new_key(struct worker *w)
{
	return (uint32_t)(w->index + 1) << 26 | (++w->next_key & 0x3ffffff);
}

__attribute__((noreturn, format(printf, 2, 3))) static void broken(struct worker *w, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "stress: seed %llu, thread %u%s, %s: ", (unsigned long long)stress_seed, w->index,
		stress_in_child ? " (forked child)" : "", w->op);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; last calls:\n");
	for (uint64_t n = notes_taken > 8 ? notes_taken - 8 : 0; n < notes_taken; n++)
		fprintf(stderr, "  %s %#llx + %llu pages, %#lx\n", notes[n % NOTES].what,
			(unsigned long long)notes[n % NOTES].at, (unsigned long long)notes[n % NOTES].pages,
			notes[n % NOTES].arg);
	_exit(1);
}

static void expect(struct worker *w, long rc, const char *what)
{
	if (rc < 0)
		broken(w, "%s: %s", what, xm_strerror((int)rc));
}

#include "tests/stress/ops.h"

/* ---- fork ------------------------------------------------------------------------------------------------------ */

/* What the child does not have, or has as zeros. */
static void child_view(struct worker *w)
{
	for (unsigned i = 0; i < AREAS; i++) {
		struct area *a = &w->area[i];

		if (a->kind == AREA_PORTION || a->kind == AREA_WINDOW || a->unforked)
			a->kind = AREA_FREE;
		else if (a->kind == AREA_MAP && a->wiped)
			forget_keys(a, 0, a->pages);
	}
}

static void check_worker(struct worker *w, const char *op)
{
	for (unsigned i = 0; i < AREAS; i++) {
		struct area *a = &w->area[i];

		if (a->kind == AREA_MAP && !(a->prot & PROT_READ))
			need_prot(w, a, PROT_READ);
		check_area(op, a);
	}
}

static void op_fork(struct worker *w);

static void child_main(struct worker *w, bool all, unsigned depth)
{
	unsigned lo = all ? 0 : w->index, hi = all ? opt.threads : w->index + 1;

	stress_in_child = true;
	pthread_rwlock_init(&world, NULL);
	children = 0;
	for (unsigned i = lo; i < hi; i++)
		child_view(&worker[i]);
	memset(w->child, 0, sizeof(w->child));
	for (unsigned i = lo; i < hi; i++)
		check_worker(&worker[i], "snapshot");
	if (all)
		check_area("snapshot of the shared area", &shared);
	for (int i = 0; i < 12; i++) {
		op_write(w);
		op_read(w);
		if (i == 5)
			op_discard(w);
		if (i == 7)
			op_unmap(w);
		if (i == 9 && depth == 0 && rnd(w, 3) == 0)
			op_fork(w);
	}
	for (unsigned i = lo; i < hi; i++)
		check_worker(&worker[i], "end of a child");
	for (unsigned i = 0; i < CHILDREN_MAX; i++)
		if (w->child[i] && test_wait(w->child[i]) != 0)
			broken(w, "a grandchild failed");
	_exit(0);
}

static int reap(struct worker *w, unsigned i, int flags)
{
	int status = 0;

	if (w->child[i] && w->doomed[i])
		kill(w->child[i], SIGKILL);
	if (!w->child[i] || waitpid(w->child[i], &status, w->doomed[i] ? 0 : flags) == 0)
		return 0;
	w->child[i] = 0;
	xm_sub(&children, 1);
	xm_add(&test_kills, w->doomed[i]);
	if (w->doomed[i] && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return 0;
	if (status != 0)
		broken(w, "a forked child ended with status %#x", (unsigned)status);
	return 0;
}

static void op_fork(struct worker *w)
{
	unsigned depth = stress_in_child, slot = CHILDREN_MAX;
	bool all = !depth && rnd(w, 2);
	pid_t pid;

	if (opt.no_fork)
		return;
	for (unsigned i = 0; i < CHILDREN_MAX; i++) {
		reap(w, i, WNOHANG);
		if (!w->child[i])
			slot = i;
	}
	if (slot == CHILDREN_MAX || xm_load(&children) >= CHILDREN_ALL)
		return;
	if (all) { /* nobody is in an operation: the child can verify everything */
		pthread_rwlock_unlock(&world);
		pthread_rwlock_wrlock(&world);
	}
	pid = test_fork();
	if (pid == 0)
		child_main(w, all, depth);
	if (all) {
		pthread_rwlock_unlock(&world);
		pthread_rwlock_rdlock(&world);
	}
	if (pid < 0)
		broken(w, "fork: %s", strerror(errno));
	w->child[slot] = pid;
	w->doomed[slot] = opt.kills && rnd(w, 2);
	xm_add(&children, 1);
	xm_add(&forks, 1);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static const struct operation {
	const char *name;
	void (*run)(struct worker *w);
	unsigned weight;
} operations[] = {
	{ "read", op_read, 30 },     { "write", op_write, 30 },	    { "shared", op_shared, 20 },
	{ "file", op_file, 8 },	     { "map", op_map, 14 },	    { "unmap", op_unmap, 8 },
	{ "fixed", op_fixed, 3 },    { "protect", op_protect, 6 },  { "remap", op_remap, 8 },
	{ "discard", op_discard, 5 }, { "advise", op_advise, 12 },  { "forkflag", op_forkflag, 1 },
	{ "lock", op_lock, 2 },	     { "mincore", op_mincore, 1 },  { "portion", op_portion, 4 },
	{ "window", op_window, 2 },  { "fork", op_fork, 1 },
};

static bool chosen_by_user(const char *name)
{
	size_t n = strlen(name);

	for (const char *p = opt.only; p && *p; p += strcspn(p, ","), p += *p == ',')
		if (strncmp(p, name, n) == 0 && (p[n] == ',' || !p[n]))
			return true;
	return !opt.only;
}

static const struct operation *draw(struct worker *w)
{
	unsigned sum = 0, at;

	for (unsigned i = 0; i < XM_ARRAY_SIZE(operations); i++)
		sum += operations[i].weight;
	for (;;) {
		at = (unsigned)rnd(w, sum);
		for (unsigned i = 0; i < XM_ARRAY_SIZE(operations); i++) {
			if (at < operations[i].weight && chosen_by_user(operations[i].name))
				return &operations[i];
			if (at < operations[i].weight)
				break;
			at -= operations[i].weight;
		}
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	while (!xm_load(&stopping)) {
		const struct operation *o = draw(w);

		pthread_rwlock_rdlock(&world);
		xm_store(&w->op, o->name);
		o->run(w);
		pthread_rwlock_unlock(&world);
		xm_store(&w->op, "between operations");
		xm_add(&w->ops, 1);
	}
	xm_store(&w->op, "waiting for its children");
	for (unsigned i = 0; i < CHILDREN_MAX; i++)
		reap(w, i, 0);
	xm_store(&w->op, "the last look");
	check_worker(w, "the last look");
	xm_store(&w->running, 0);
	return NULL;
}

static void prepare_worker(struct worker *w, unsigned index)
{
	w->index = index;
	w->op = "start";
	w->running = 1;
	w->random = stress_seed * 1000003 + index;
	w->file = (int)syscall(SYS_memfd_create, "stress", 0);
	for (unsigned i = 0; i < AREAS; i++) {
		w->area[i].keys = calloc(AREA_PAGES, sizeof(struct page_keys));
		if (!w->area[i].keys || w->file < 0)
			test_die("no memory");
	}
	adopt(&w->area[0], AREA_WINDOW, NULL, WINDOW_PAGES);
	w->area[0].mapped = false;
}

static void end_worker(struct worker *w)
{
	for (unsigned i = 0; i < AREAS; i++) {
		struct area *a = &w->area[i];

		if (a->kind == AREA_MAP)
			expect(w, xm_map_unmap(a->at, a->pages * XM_PAGE_SIZE), "last munmap");
		free(a->keys);
	}
	close(w->file);
}

/* ---- watching ------------------------------------------------------------------------------------------------------ */

static void tell_hang(const struct worker *w)
{
	char cmd[256];

	fprintf(stderr, "stress: HANG, seed %llu: thread %u has been in '%s' for %u s; threads of %d:\n",
		(unsigned long long)stress_seed, w->index, w->op, opt.watch, (int)getpid());
	snprintf(cmd, sizeof(cmd),
		 "for t in /proc/%d/task/*; do echo \"$(cat $t/comm) $(cat $t/wchan) $(cut -d' ' -f1-4 $t/syscall)\"; "
		 "head -8 $t/stack; done 1>&2",
		 (int)getpid());
	if (system(cmd) != 0)
		fprintf(stderr, "stress: nothing more is known\n");
	_exit(2);
}

static void watch(unsigned seconds, bool ending)
{
	static uint64_t before[THREADS_MAX], since[THREADS_MAX];
	uint64_t end = xm_now_ns() + seconds * 1000000000ull;

	for (;;) {
		uint64_t now = xm_now_ns();
		uint32_t running = 0;

		for (unsigned i = 0; i < opt.threads; i++) {
			uint64_t ops = xm_load(&worker[i].ops);

			if (ops != before[i] || !since[i])
				since[i] = now;
			before[i] = ops;
			if (xm_load(&worker[i].running) && now - since[i] > opt.watch * 1000000000ull)
				tell_hang(&worker[i]);
			running += xm_load(&worker[i].running);
		}
		if (ending ? !running : now >= end)
			return;
		usleep(20000);
	}
}

/* What dead children held comes back when their grace time is over (writes of theirs may be on their way). */
static void reap_children(void)
{
	uint64_t end = xm_now_ns() + 2 * xm_rt.fam->reap_grace_ns + 45000000000ull;

	do {
		xm_family_reap_dead(xm_rt.fam);
		if (xm_load(&xm_rt.fam->resident_pages) == test_own_pages() && !test_slots_left())
			return;
		usleep(20000);
	} while (xm_now_ns() < end);
}

static void tell_processes(void)
{
	for (uint32_t i = 0; i < xm_load(&xm_rt.fam->procs_high); i++) {
		const struct xm_proc *p = &xm_rt.fam->proc[i];

		if (xm_load(&p->state) != XM_PROC_FREE && xm_load(&p->state) != XM_PROC_ENDED)
			fprintf(stderr, "stress: entry %u: state %u pid %d (%s) parent %d owner %d resident %llu ended %llu\n", i,
				p->state, p->pid, kill(p->pid, 0) == 0 ? "lives" : "dead", p->ppid, p->owner,
				(unsigned long long)p->resident, (unsigned long long)p->ended_ns);
	}
}

static void tell_words(void)
{
	unsigned told = 0;

	for (uint64_t page = xm_pte_skip(&xm_rt, 0, XM_EXT_PAGES); page < XM_EXT_PAGES && told < 20;
	     page = xm_pte_skip(&xm_rt, page + 1, XM_EXT_PAGES)) {
		if (!(xm_pg_load(&xm_rt.pt[page]) & ~XM_PG_QUEUED))
			continue;
		fprintf(stderr, "stress: page %#llx has word %#llx\n", (unsigned long long)xm_page_addr(page),
			(unsigned long long)xm_pg_load(&xm_rt.pt[page]));
		tell_notes((void *)xm_page_addr(page));
		told++;
	}
}

static void summary(void)
{
	const struct xm_proc_stats *s = &xm_rt.me->stats;
	uint64_t ops = 0;

	for (unsigned i = 0; i < opt.threads; i++)
		ops += worker[i].ops;
	printf("stress: %llu operations, %llu forks, %llu kills; faults zero %llu fetch %llu write %llu wait %llu; evicted dirty %llu "
	       "clean %llu zero %llu refused %llu; over budget at most %llu pages; link errors %llu, checksums %llu, "
	       "reconnects %llu\n",
	       (unsigned long long)ops, (unsigned long long)forks, (unsigned long long)test_kills, (unsigned long long)s->faults_zero,
	       (unsigned long long)s->faults_fetch, (unsigned long long)s->faults_write,
	       (unsigned long long)s->faults_wait, (unsigned long long)s->evicted_dirty_pages,
	       (unsigned long long)s->evicted_clean_pages, (unsigned long long)s->evicted_zero_pages,
	       (unsigned long long)s->evict_refused_pages, (unsigned long long)s->over_budget_pages_max,
	       (unsigned long long)s->link_errors, (unsigned long long)s->checksum_errors,
	       (unsigned long long)s->link_reconnects);
}

/* ---- main ---------------------------------------------------------------------------------------------------------- */

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "seed", 1, 0, 's' },	   { "seconds", 1, 0, 't' }, { "threads", 1, 0, 'n' },	{ "local", 1, 0, 'l' },
		{ "link", 1, 0, 'k' },	   { "uri", 1, 0, 'u' },     { "inject", 1, 0, 'i' },	{ "mask", 1, 0, 'm' },
		{ "evict", 1, 0, 'e' },	   { "prefetch", 1, 0, 'p' }, { "handlers", 1, 0, 'h' }, { "verify", 0, 0, 'v' },
		{ "pins", 0, 0, 'P' },	   { "kills", 0, 0, 'K' },	   { "no-fork", 0, 0, 'F' }, { "only", 1, 0, 'o' },
		{ "watch", 1, 0, 'w' },	   { 0 },
	};
	const char *level = getenv("XMEM_LEVEL");
	int c;

	stress_seed = xm_now_ns() % 1000000007;
	opt.seconds = level && strcmp(level, "all") == 0 ? 240 : 12;
	opt.rt.budget_bytes = 16ull << 20;
	opt.rt.masked_features = test_mask(getenv("XMEM_MASK"));
	while ((c = getopt_long(argc, argv, "", known, NULL)) >= 0) {
		unsigned long n = optarg ? strtoul(optarg, NULL, 0) : 0;

		switch (c) {
		case 's': stress_seed = strtoull(optarg, NULL, 0); break;
		case 't': opt.seconds = (unsigned)n; break;
		case 'n': opt.threads = (unsigned)xm_min(xm_max(n, 1ul), (unsigned long)THREADS_MAX); break;
		case 'l': opt.rt.budget_bytes = n << 20; break;
		case 'k': opt.link = optarg; break;
		case 'u': opt.uri = optarg; break;
		case 'i': opt.rt.inject = optarg; break;
		case 'm': opt.rt.masked_features = test_mask(optarg); break;
		case 'e': opt.rt.evict = optarg; break;
		case 'p': opt.rt.prefetch = optarg; break;
		case 'h': opt.rt.handlers = (uint32_t)n; break;
		case 'v': opt.rt.verify = 1; break;
		case 'P': opt.pins = true; break;
		case 'K': opt.kills = true; break;
		case 'F': opt.no_fork = true; break;
		case 'o': opt.only = optarg; break;
		case 'w': opt.watch = (unsigned)n; break;
		default: test_die("unknown option (see the top of stress.c)");
		}
	}
}

static void begin_world(struct test_appliance *a)
{
	static struct xmem_options o = { .size = sizeof(o) };
	int err = 0;

	snprintf(a->uri, sizeof(a->uri), "%s", opt.uri ? opt.uri : "");
	if (!opt.uri)
		test_appliance_start(a, "1G", opt.link);
	test_runtime_start(&opt.rt, a, 1);
	if (opt.pins)
		xm_pins_seen("the stress program");
	api = xmem_open(&o, &err);
	if (api)
		portions = xmem_region_create(api, 0, PORTIONS_BYTES, NULL, &err);
	if (portions)
		windows = xmem_region_create(api, 0, opt.threads * WINDOW_PAGES * XM_PAGE_SIZE, NULL, &err);
	if (!windows)
		test_die("regions: %s", xm_strerror(err));
	adopt(&shared, AREA_MAP, xm_map_new(SHARED_PAGES * XM_PAGE_SIZE, 0, PROT_READ | PROT_WRITE, 0), SHARED_PAGES);
	shared.keys = calloc(SHARED_PAGES, sizeof(struct page_keys));
	if (test_is_error(shared.at) || !shared.keys)
		test_die("no shared area");
}

int main(int argc, char **argv)
{
	struct test_appliance a = { 0 };
	unsigned bad;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv);
	printf("stress: seed %llu, %u s, %u threads, local %llu MiB, %s%s%s, mask %#x\n",
	       (unsigned long long)stress_seed, opt.seconds, opt.threads,
	       (unsigned long long)(opt.rt.budget_bytes >> 20), opt.uri ? opt.uri : opt.link,
	       opt.rt.inject ? ", inject " : "", opt.rt.inject ? opt.rt.inject : "", opt.rt.masked_features);
	begin_world(&a);
	for (unsigned i = 0; i < opt.threads; i++)
		prepare_worker(&worker[i], i);
	for (unsigned i = 0; i < opt.threads; i++)
		if (pthread_create(&worker[i].thread, NULL, worker_main, &worker[i]) != 0)
			test_die("no thread");
	watch(opt.seconds, false);
	xm_store(&stopping, 1);
	watch(0, true);
	for (unsigned i = 0; i < opt.threads; i++)
		pthread_join(worker[i].thread, NULL);
	check_area("the last look at the shared area", &shared);
	for (unsigned i = 0; i < opt.threads; i++)
		end_worker(&worker[i]);
	xm_map_unmap(shared.at, SHARED_PAGES * XM_PAGE_SIZE);
	free(shared.keys);
	xmem_region_release(portions);
	xmem_region_release(windows);
	xmem_close(api);
	summary();
	reap_children();
	bad = test_left_over();
	tell_words();
	if (bad)
		tell_processes();
	if (bad)
		fprintf(stderr, "stress: LEFT OVER, seed %llu\n", (unsigned long long)stress_seed);
	test_runtime_stop();
	if (!opt.uri && test_appliance_stop(&a) != 0) {
		fprintf(stderr, "stress: the appliance did not end cleanly\n");
		bad++;
	}
	return bad ? 1 : 0;
}
