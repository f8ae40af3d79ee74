/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.c - an ordinary program that touches memory in one pattern and says in JSON how long that took. It knows
 * nothing of xmem: the bench runs it alone and under xmem-run and compares.
 *
 *   fill     every page once, in order, with words that name the page (always done first, reported apart)
 *   warm=1   reads every page once, in order, before the pattern: what fill left dirty is then clean
 *   pattern  seqread seqwrite randread randrw: over the whole set, for --seconds; resident: many accesses a page
 *            over a set that is in memory already; touch: one store a page of fresh memory, again and again
 *
 * Each page's words are checked on every read: a wrong one is counted and makes the exit status 1. Latencies of
 * single accesses come from the time-stamp counter; one above FAULT_NS counts as a fault.
 * Threads: --threads workers, each with its own histogram (static: never external memory); no locks.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "hist.h"
#include "units.h"
#include "util.h"

#define THREADS_MAX 8
#define FAULT_NS 1000
#define TOUCH_ROUNDS_MIN 15 /* the first ones find frames that the machine has not used for long */
#define WORDS_PER_PAGE (XM_PAGE_SIZE / sizeof(uint64_t))

enum pattern { SEQREAD, SEQWRITE, RANDREAD, RANDRW, RESIDENT, TOUCH };

static const char *const pattern_names[] = { "seqread", "seqwrite", "randread", "randrw", "resident", "touch" };

static struct {
	enum pattern pattern;
	uint64_t bytes, threads, huge;
	double seconds;
	int cpu; /* -1: wherever the scheduler likes */
	bool use_malloc, warm;
} opt = { .bytes = 64 << 20, .threads = 1, .seconds = 2, .cpu = -1 };

struct worker {
	pthread_t thread;
	unsigned index;
	uint64_t accesses, pages, errors, ns, cpu_ns;
	struct xm_hist all, faults; /* in ticks of the time-stamp counter */
};

static struct worker worker[THREADS_MAX];
static uint64_t *mem;
static uint64_t npages;
static double ns_per_tick;
static uint64_t fault_ticks;

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* What a word of a page holds; the upper half counts writes and is not checked. */
static uint32_t name_of(uint64_t page)
{
	return (uint32_t)(page * 2654435761u) ^ 0x5bd1e995u;
}

static void record(struct worker *w, uint64_t ticks)
{
	xm_hist_record(&w->all, ticks);
	if (ticks > fault_ticks)
		xm_hist_record(&w->faults, ticks);
}

/* One access of a page at a word that depends on the page, timed. */
static void access_timed(struct worker *w, uint64_t page, bool write)
{
	volatile uint64_t *p = mem + page * WORDS_PER_PAGE + page % WORDS_PER_PAGE;
	uint64_t t = __rdtsc(), v;

	if (write)
		*p += 1ull << 32;
	v = *p;
	_mm_lfence();
	record(w, __rdtsc() - t);
	w->errors += (uint32_t)v != name_of(page);
	w->accesses++;
}

/* The whole page, eight words at a time, as a program that streams does. */
static void stream_page(struct worker *w, uint64_t page, bool write)
{
	uint64_t *p = mem + page * WORDS_PER_PAGE, sum = 0, want = name_of(page);

	if (write) {
		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			p[i] += 1ull << 32;
		w->errors += (uint32_t)p[0] != want;
	} else {
		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			sum += (uint32_t)p[i];
		w->errors += sum != want * WORDS_PER_PAGE;
	}
	w->pages++;
}

static void fill(uint64_t first, uint64_t end)
{
	for (uint64_t page = first; page < end; page++) {
		uint64_t *p = mem + page * WORDS_PER_PAGE, v = name_of(page);

		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			p[i] = v;
	}
}

/* First touch alone: one store a page, so that the kernel's or the runtime's part is not hidden by the program's. */
static void touch(void)
{
	for (uint64_t page = 0; page < npages; page++)
		*(volatile uint64_t *)(mem + page * WORDS_PER_PAGE) = name_of(page);
}

static void run_stream(struct worker *w, uint64_t first, uint64_t end, uint64_t until)
{
	/* whole passes: half a pass would find part of the set resident */
	do {
		for (uint64_t page = first; page < end; page++)
			stream_page(w, page, opt.pattern == SEQWRITE);
	} while (xm_now_ns() < until);
}

static void run_random(struct worker *w, uint64_t until)
{
	uint64_t seed = 0x9e3779b97f4a7c15ull * (w->index + 1);

	while (xm_now_ns() < until) {
		for (int i = 0; i < 64; i++) {
			uint64_t r = next_random(&seed);

			access_timed(w, (r >> 8) % npages, opt.pattern == RANDRW && (r & 1));
		}
	}
}

static uint64_t *chased; /* resident: the loads must happen */

/* Work on memory that is there: dependent loads and stores spread over the set, a multiple of what fits caches. */
static void run_resident(struct worker *w, uint64_t until)
{
	uint64_t seed = 88172645463325252ull + w->index, sum = 0;

	while (xm_now_ns() < until) {
		for (int i = 0; i < 4096; i++) {
			uint64_t r = next_random(&seed);
			uint64_t *p = mem + (r >> 16) % (npages * WORDS_PER_PAGE);

			sum += *p;
			if (r & 1)
				*p += 1ull << 32;
		}
		w->accesses += 4096;
	}
	__atomic_store_n(&chased, (uint64_t *)(uintptr_t)sum, __ATOMIC_RELAXED);
}

/* What the thread has used: other programs on a busy machine do not show in it. */
static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t share = npages / opt.threads, start = xm_now_ns();
	uint64_t until = start + (uint64_t)(opt.seconds * 1e9);

	switch (opt.pattern) {
	case SEQREAD:
	case SEQWRITE:
		run_stream(w, w->index * share, (w->index + 1) * share, until);
		break;
	case RANDREAD:
	case RANDRW:
		run_random(w, until);
		break;
	case RESIDENT:
		run_resident(w, until);
		break;
	case TOUCH:
		break;
	}
	w->ns = xm_now_ns() - start;
	w->cpu_ns = thread_cpu_ns();
	return NULL;
}

/* What malloc gives need not begin on a page. */
static uint64_t set_pages(void)
{
	return opt.bytes / XM_PAGE_SIZE - (opt.use_malloc ? 1 : 0);
}

static void *map_set(void)
{
	void *p;

	if (opt.use_malloc) {
		p = malloc(opt.bytes);
	} else {
		p = mmap(NULL, opt.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			p = NULL;
	}
	if (!p) {
		fprintf(stderr, "access: no memory for %llu bytes\n", (unsigned long long)opt.bytes);
		exit(2);
	}
	p = (void *)xm_round_up((uintptr_t)p, XM_PAGE_SIZE);
	madvise(p, set_pages() * XM_PAGE_SIZE, opt.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

static void unmap_set(void)
{
	if (!opt.use_malloc)
		munmap(mem, opt.bytes);
}

/* Fills once; with pattern touch again into fresh memory until the time is over, and keeps the median. */
static uint64_t fill_median_ns(void)
{
	static uint64_t ns[1001];
	uint64_t until = xm_now_ns() + (uint64_t)(opt.seconds * 1e9);
	unsigned n = 0;

	do {
		uint64_t start;

		if (n) {
			unmap_set();
			mem = map_set();
		}
		start = xm_now_ns();
		if (opt.pattern == TOUCH)
			touch();
		else
			fill(0, npages);
		ns[n++] = xm_now_ns() - start;
	} while (opt.pattern == TOUCH && n < 1000 && (n < TOUCH_ROUNDS_MIN || xm_now_ns() < until));
	for (unsigned i = 1; i < n; i++)
		for (unsigned j = i; j > 0 && ns[j - 1] > ns[j]; j--) {
			uint64_t t = ns[j];

			ns[j] = ns[j - 1];
			ns[j - 1] = t;
		}
	return ns[n / 2];
}

static void calibrate(void)
{
	uint64_t t = __rdtsc(), start = xm_now_ns(), now;

	do
		now = xm_now_ns();
	while (now - start < 20000000);
	ns_per_tick = (double)(now - start) / (double)(__rdtsc() - t);
	fault_ticks = (uint64_t)(FAULT_NS / ns_per_tick);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fprintf(stderr, "access: cannot run on processor %d: %s\n", cpu, strerror(errno));
}

static double quantile_us(const struct xm_hist *h, double q)
{
	return (double)xm_hist_quantile(h, q) * ns_per_tick / 1000;
}

static int report(uint64_t fill_ns)
{
	static struct xm_hist all, faults;
	uint64_t accesses = 0, pages = 0, errors = 0, ns = 1, cpu_ns = 1;
	double s;

	for (unsigned i = 0; i < opt.threads; i++) {
		xm_hist_merge(&all, &worker[i].all);
		xm_hist_merge(&faults, &worker[i].faults);
		accesses += worker[i].accesses;
		pages += worker[i].pages;
		errors += worker[i].errors;
		ns = xm_max(ns, worker[i].ns);
		cpu_ns += worker[i].cpu_ns;
	}
	s = (double)ns / 1e9;
	printf("{\"pattern\":\"%s\",\"bytes\":%llu,\"threads\":%llu,\"seconds\":%.4f,\"errors\":%llu",
	       pattern_names[opt.pattern], (unsigned long long)opt.bytes, (unsigned long long)opt.threads, s,
	       (unsigned long long)errors);
	printf(",\"fill_ns_per_page\":%.1f", (double)fill_ns / (double)npages);
	printf(",\"accesses_per_cpu_s\":%.0f", (double)accesses / ((double)cpu_ns / 1e9));
	printf(",\"accesses_per_s\":%.0f,\"stream_mib_per_s\":%.1f", (double)accesses / s,
	       (double)pages * XM_PAGE_SIZE / s / (1 << 20));
	printf(",\"faults\":%llu,\"faults_per_s\":%.0f", (unsigned long long)faults.count, (double)faults.count / s);
	printf(",\"fault_us\":{\"mean\":%.3f,\"p50\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.1f}}\n",
	       faults.count ? (double)faults.sum / (double)faults.count * ns_per_tick / 1000 : 0,
	       quantile_us(&faults, 0.5), quantile_us(&faults, 0.99), quantile_us(&faults, 0.999),
	       (double)faults.max * ns_per_tick / 1000);
	return errors ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: access PATTERN [size=64M] [seconds=2] [threads=1] [cpu=N] [huge=0|1] [malloc=0|1] [warm=0|1]\n"
			"patterns: seqread seqwrite randread randrw resident touch\n");
	return 2;
}

static int parse(int argc, char **argv)
{
	unsigned p = 0;

	while (argc > 1 && p < XM_ARRAY_SIZE(pattern_names) && strcmp(argv[1], pattern_names[p]) != 0)
		p++;
	if (argc < 2 || p == XM_ARRAY_SIZE(pattern_names))
		return -EINVAL;
	opt.pattern = (enum pattern)p;
	for (int i = 2; i < argc; i++) {
		const char *eq = strchr(argv[i], '=');
		const char *v = eq ? eq + 1 : "";

		if (strncmp(argv[i], "size=", 5) == 0 && xm_parse_size(v, 0, &opt.bytes) == 0)
			continue;
		else if (strncmp(argv[i], "seconds=", 8) == 0)
			opt.seconds = atof(v);
		else if (strncmp(argv[i], "threads=", 8) == 0)
			opt.threads = strtoull(v, NULL, 10);
		else if (strncmp(argv[i], "cpu=", 4) == 0)
			opt.cpu = atoi(v);
		else if (strncmp(argv[i], "huge=", 5) == 0)
			opt.huge = strtoull(v, NULL, 10);
		else if (strncmp(argv[i], "malloc=", 7) == 0)
			opt.use_malloc = atoi(v) != 0;
		else if (strncmp(argv[i], "warm=", 5) == 0)
			opt.warm = atoi(v) != 0;
		else
			return -EINVAL;
	}
	return opt.threads >= 1 && opt.threads <= THREADS_MAX && opt.bytes >= 64 * XM_PAGE_SIZE ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	uint64_t fill_ns;

	if (parse(argc, argv) != 0)
		return usage();
	if (opt.cpu >= 0)
		pin(opt.cpu);
	calibrate();
	mem = map_set();
	npages = set_pages();
	fill_ns = fill_median_ns();
	for (uint64_t page = 0; opt.warm && page < npages; page++)
		stream_page(&worker[0], page, false);
	worker[0].pages = 0;
	for (unsigned i = 0; i < opt.threads; i++) {
		worker[i].index = i;
		if (pthread_create(&worker[i].thread, NULL, work, &worker[i]) != 0) {
			fprintf(stderr, "access: cannot start thread %u\n", i);
			return 2;
		}
	}
	for (unsigned i = 0; i < opt.threads; i++)
		pthread_join(worker[i].thread, NULL);
	return report(fill_ns);
}
