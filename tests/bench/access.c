/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.c - an ordinary program that touches memory in one pattern and says in JSON how long that took. It knows
 * nothing of xmem: the bench runs it alone and under xmem-run and compares.
 *
 *   fill       every page once, in order, with words that name the page (always done first, reported apart);
 *              data=incompressible, or compressible: about 3:1 for lzo
 *   warm=1     reads every page once, in order, before the pattern: what fill left dirty is then clean
 *   pattern    for --seconds, over the whole set:
 *     seqread seqwrite            whole pages, in order; each thread a part of the set
 *     randread randrw randwrite   one word of a random page; randrw: every second one is written, which is a load and
 *                                 then a store: two faults for a pager that takes what was loaded for clean
 *     zipf zipfrw                 the same, pages drawn by Zipf's law with exponent 0.99 and scattered over the set
 *     strided                     one word of every fifth page, round and round until each was read
 *     chase                       one word of the page that the last word read names: a random cycle through all
 *     resident                    many accesses a page over a set that is in memory already
 *     touch                       one store a page of fresh memory, again and again
 *     none                        nothing: what filling and warming alone cost
 *
 * bare=SIZE: the program pages its own set by the least that can do it (bare.h) with so much of it local; bare_track=1: what
 * is read comes in protected. The floor for xmem's figures; not to be run under xmem-run.
 *
 * Each page's words are checked on every read: a wrong one is counted and makes the exit status 1. Latencies of single
 * accesses (of the first word of a page where whole pages are read) come from the time-stamp counter; one above FAULT_NS
 * counts as a fault. Processor time and the kernel's count of faults are those of the process while the pattern ran.
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
#include <sys/resource.h>
#include <x86intrin.h>

#include "bare.h"
#include "hist.h"
#include "units.h"
#include "util.h"
#include "zipf.h"

#define THREADS_MAX 8
#define FAULT_NS 1000
#define TOUCH_ROUNDS_MIN 15 /* the first ones find frames that the machine has not used for long */
#define WORDS_PER_PAGE (XM_PAGE_SIZE / sizeof(uint64_t))
#define STRIDE_PAGES 5
#define ZIPF_EXPONENT 0.99
#define STEP \
	0x9e3779b97f4a7c15ull  /* from word to word: neighbours have no byte in common that lzo could use */
#define COMPRESSIBLE_WORDS 168 /* of a compressible page that differ; the others repeat the first: 3:1 */

enum pattern { SEQREAD, SEQWRITE, RANDREAD, RANDRW, RANDWRITE, ZIPF, ZIPFRW, STRIDED, CHASE, RESIDENT, TOUCH, NONE };

static const char *const pattern_names[] = { "seqread", "seqwrite", "randread", "randrw", "randwrite", "zipf",
					     "zipfrw",	"strided",  "chase",	"resident", "touch",  "none" };

static struct {
	enum pattern pattern;
	uint64_t bytes, threads, huge;
	double seconds;
	int cpu; /* -1: wherever the scheduler likes */
	bool use_malloc, warm, compressible;
	uint64_t bare; /* bytes local; 0: no pager */
	bool bare_track;
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
static unsigned varied = WORDS_PER_PAGE; /* words of a page, from the first, that differ */
static uint32_t varied_sum;		 /* of what they differ by */
static struct zipf zipf;
static double ns_per_tick;
static uint64_t fault_ticks;

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* The first word of a page. The lower half of a word is checked; the upper one counts writes, or leads on (chase). */
static uint64_t name_of(uint64_t page)
{
	return (page + 1) * 0xd1342543de82ef95ull;
}

static uint64_t word_of(uint64_t page, unsigned i)
{
	return name_of(page) + (i < varied ? i * STEP : 0);
}

/* The lower halves of a page's words, added up. */
static uint32_t sum_of(uint64_t page)
{
	return (uint32_t)(name_of(page) * WORDS_PER_PAGE) + varied_sum;
}

static void choose_data(void)
{
	if (opt.compressible)
		varied = COMPRESSIBLE_WORDS;
	for (unsigned i = 0; i < varied; i++)
		varied_sum += (uint32_t)(i * STEP);
}

/* The word of a page that single accesses go to. */
static unsigned place_in(uint64_t page)
{
	return page % WORDS_PER_PAGE;
}

static void record(struct worker *w, uint64_t ticks)
{
	xm_hist_record(&w->all, ticks);
	if (ticks > fault_ticks)
		xm_hist_record(&w->faults, ticks);
}

/* One access of a page at a word that depends on the page, timed: the word. */
static uint64_t access_timed(struct worker *w, uint64_t page, bool write)
{
	volatile uint64_t *p = mem + page * WORDS_PER_PAGE + place_in(page);
	uint64_t t = __rdtsc(), v;

	if (write)
		*p += 1ull << 32;
	v = *p;
	_mm_lfence();
	record(w, __rdtsc() - t);
	w->errors += (uint32_t)v != (uint32_t)word_of(page, place_in(page));
	w->accesses++;
	return v;
}

/* The whole page, as a program that streams does; what the first word takes is recorded. */
static void stream_page(struct worker *w, uint64_t page, bool write)
{
	uint64_t *p = mem + page * WORDS_PER_PAGE, t = __rdtsc();
	uint32_t sum = 0;

	if (write)
		*(volatile uint64_t *)p += 1ull << 32;
	else
		(void)*(volatile uint64_t *)p;
	_mm_lfence();
	record(w, __rdtsc() - t);
	if (write) {
		for (unsigned i = 1; i < WORDS_PER_PAGE; i++)
			p[i] += 1ull << 32;
		w->errors += (uint32_t)p[0] != (uint32_t)name_of(page);
	} else {
		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			sum += (uint32_t)p[i];
		w->errors += sum != sum_of(page);
	}
	w->pages++;
}

static void fill(uint64_t first, uint64_t end)
{
	for (uint64_t page = first; page < end; page++) {
		uint64_t *p = mem + page * WORDS_PER_PAGE, v = name_of(page);

		for (unsigned i = 0; i < varied; i++)
			p[i] = v + i * STEP;
		for (unsigned i = varied; i < WORDS_PER_PAGE; i++)
			p[i] = v;
	}
}

/* Puts into each page which one comes next: one random cycle through all (S. Sattolo, "An algorithm to generate a random
 * cyclic permutation", Information Processing Letters 22, 1986). The order is made in memory of its own, then written in
 * the order of the pages. */
static int link_pages(void)
{
	uint64_t seed = 0x2545f4914f6cdd1dull, bytes = npages * sizeof(uint32_t);
	uint32_t *next = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (next == MAP_FAILED)
		return -errno;
	for (uint64_t i = 0; i < npages; i++)
		next[i] = (uint32_t)i;
	for (uint64_t i = npages - 1; i > 0; i--) {
		uint64_t k = (next_random(&seed) >> 16) % i;
		uint32_t t = next[i];

		next[i] = next[k];
		next[k] = t;
	}
	for (uint64_t page = 0; page < npages; page++) {
		uint64_t *p = mem + page * WORDS_PER_PAGE + place_in(page);

		*p = (uint32_t)*p | (uint64_t)next[page] << 32;
	}
	munmap(next, bytes);
	return 0;
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

			access_timed(w, (r >> 8) % npages,
				     opt.pattern == RANDWRITE || (opt.pattern == RANDRW && (r & 1)));
		}
	}
}

/* Rank to page: times a prime, which is a permutation unless the set has a multiple of so many pages. */
static void run_zipf(struct worker *w, uint64_t until)
{
	uint64_t seed = 0x9e3779b97f4a7c15ull * (w->index + 1);

	while (xm_now_ns() < until) {
		for (int i = 0; i < 64; i++) {
			uint64_t page = zipf_draw(&zipf, next_random, &seed) * 2654435761ull % npages;

			access_timed(w, page, opt.pattern == ZIPFRW && (i & 1));
		}
	}
}

static void run_strided(struct worker *w, uint64_t first, uint64_t end, uint64_t until)
{
	do {
		for (uint64_t from = first; from < first + STRIDE_PAGES; from++)
			for (uint64_t page = from; page < end; page += STRIDE_PAGES)
				access_timed(w, page, false);
	} while (xm_now_ns() < until);
}

static void run_chase(struct worker *w, uint64_t first, uint64_t until)
{
	uint64_t page = first;

	while (xm_now_ns() < until)
		for (int i = 0; i < 64; i++)
			page = (access_timed(w, page, false) >> 32) % npages;
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

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t share = npages / opt.threads, start = xm_now_ns();
	uint64_t until = start + (uint64_t)(opt.seconds * 1e9);

	switch (opt.pattern) {
	case SEQREAD:
	case SEQWRITE: run_stream(w, w->index * share, (w->index + 1) * share, until); break;
	case RANDREAD:
	case RANDRW:
	case RANDWRITE: run_random(w, until); break;
	case ZIPF:
	case ZIPFRW: run_zipf(w, until); break;
	case STRIDED: run_strided(w, w->index * share, (w->index + 1) * share, until); break;
	case CHASE: run_chase(w, w->index * share, until); break;
	case RESIDENT: run_resident(w, until); break;
	case TOUCH:
	case NONE: break;
	}
	w->ns = xm_now_ns() - start;
	w->cpu_ns = xm_thread_cpu_ns();
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

static void print_latency(const char *name, const struct xm_hist *h)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p999", 0.999 } };

	printf(",\"%s\":{\"mean\":%.3f", name,
	       h->count ? (double)h->sum / (double)h->count * ns_per_tick / 1000 : 0);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(quantiles); i++)
		printf(",\"%s\":%.3f", quantiles[i].name,
		       (double)xm_hist_quantile(h, quantiles[i].q) * ns_per_tick / 1000);
	printf(",\"max\":%.1f}", (double)h->max * ns_per_tick / 1000);
}

static double seconds_of(struct timeval to, struct timeval from)
{
	return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_usec - from.tv_usec) / 1e6;
}

/* before: what the process had used when the pattern began */
static int report(uint64_t fill_ns, const struct rusage *before)
{
	static struct xm_hist all, faults;
	uint64_t accesses = 0, pages = 0, errors = 0, ns = 1, cpu_ns = 1;
	struct rusage now;
	double s;

	getrusage(RUSAGE_SELF, &now);
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
	printf(",\"accesses\":%llu,\"pages\":%llu", (unsigned long long)accesses, (unsigned long long)pages);
	printf(",\"accesses_per_cpu_s\":%.0f", (double)accesses / ((double)cpu_ns / 1e9));
	printf(",\"accesses_per_s\":%.0f,\"stream_mib_per_s\":%.1f", (double)accesses / s,
	       (double)pages * XM_PAGE_SIZE / s / (1 << 20));
	printf(",\"faults\":%llu,\"faults_per_s\":%.0f", (unsigned long long)faults.count,
	       (double)faults.count / s);
	printf(",\"majflt\":%ld,\"minflt\":%ld", now.ru_majflt - before->ru_majflt,
	       now.ru_minflt - before->ru_minflt);
	printf(",\"user_s\":%.6f,\"sys_s\":%.6f", seconds_of(now.ru_utime, before->ru_utime),
	       seconds_of(now.ru_stime, before->ru_stime));
	if (opt.bare)
		printf(",\"bare_evict_us\":%.3f", (double)bare.evict_cpu_ns / 1e3 / (double)xm_max(bare.evicted, 1ull));
	print_latency("access_us", &all);
	print_latency("fault_us", &faults);
	printf("}\n");
	return errors ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: access PATTERN [size=64M] [seconds=2] [threads=1] [cpu=N] [huge=0|1] [malloc=0|1] [warm=0|1]\n"
		"              [data=incompressible|compressible] [bare=SIZE] [bare_track=0|1]\npatterns:");
	for (unsigned p = 0; p < XM_ARRAY_SIZE(pattern_names); p++)
		fprintf(stderr, " %s", pattern_names[p]);
	fprintf(stderr, "\n");
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
		else if (strncmp(argv[i], "bare=", 5) == 0 && xm_parse_size(v, 0, &opt.bare) == 0)
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
		else if (strncmp(argv[i], "bare_track=", 11) == 0)
			opt.bare_track = atoi(v) != 0;
		else if (strcmp(argv[i], "data=compressible") == 0 ||
			 strcmp(argv[i], "data=incompressible") == 0)
			opt.compressible = v[0] == 'c';
		else
			return -EINVAL;
	}
	if (opt.bare && (opt.pattern == TOUCH || opt.bare < 1024 * XM_PAGE_SIZE))
		return -EINVAL; /* it pages one range */
	return opt.threads >= 1 && opt.threads <= THREADS_MAX && opt.bytes >= 64 * XM_PAGE_SIZE ? 0 : -EINVAL;
}

/* What single accesses need beyond filled pages, and warmth; leaves worker 0 as it was. */
static int prepare(void)
{
	zipf_init(&zipf, npages, ZIPF_EXPONENT);
	if (opt.pattern == CHASE && link_pages() != 0) {
		fprintf(stderr, "access: no memory for the order of %llu pages\n",
			(unsigned long long)npages);
		return -ENOMEM;
	}
	for (uint64_t page = 0; opt.warm && page < npages; page++)
		stream_page(&worker[0], page, false);
	memset(&worker[0].all, 0, sizeof(worker[0].all));
	memset(&worker[0].faults, 0, sizeof(worker[0].faults));
	worker[0].pages = 0;
	return 0;
}

int main(int argc, char **argv)
{
	struct rusage before;
	uint64_t fill_ns;

	if (parse(argc, argv) != 0)
		return usage();
	if (opt.cpu >= 0)
		pin(opt.cpu);
	choose_data();
	calibrate();
	mem = map_set();
	npages = set_pages();
	if (opt.bare)
		bare_start(mem, npages, opt.bare / XM_PAGE_SIZE, opt.bare_track);
	fill_ns = fill_median_ns();
	if (prepare() != 0)
		return 2;
	xm_store(&bare.evicted, 0); /* of filling and warming */
	xm_store(&bare.evict_cpu_ns, 0);
	getrusage(RUSAGE_SELF, &before);
	for (unsigned i = 0; i < opt.threads; i++) {
		worker[i].index = i;
		if (pthread_create(&worker[i].thread, NULL, work, &worker[i]) != 0) {
			fprintf(stderr, "access: cannot start thread %u\n", i);
			return 2;
		}
	}
	for (unsigned i = 0; i < opt.threads; i++)
		pthread_join(worker[i].thread, NULL);
	return report(fill_ns, &before);
}
