/* SPDX-License-Identifier: Apache-2.0 */
/*
 * malloc_family [MIB [SEED]] - every function of the malloc family, alone, mixed, from many threads
 * and from inside libc: blocks are aligned, distinct, hold what was written, and a block of one
 * function is accepted by each other.
 */
#include "check.h"

#include <dirent.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>

#define THREADS 6
#define SLOTS 512

static size_t work_bytes;
/* keeps gcc from reasoning about sizes and about blocks that are compared after they were freed */
static volatile size_t huge = SIZE_MAX / 2 - 4096;

static void test_results_and_errors(void)
{
	void *p = &work_bytes, *q;
	char *volatile kept;

	CHECK((q = malloc(0)) != NULL);
	free(q);
	free(NULL);
	errno = 0;
	CHECK(malloc(huge) == NULL && errno == ENOMEM);
	errno = 0;
	CHECK(calloc(huge, 4) == NULL && errno == ENOMEM);
	errno = 0;
	CHECK(reallocarray(NULL, huge, 4) == NULL && errno == ENOMEM);
	errno = 0;
	CHECK(posix_memalign(&p, 3, 8) == EINVAL && posix_memalign(&p, 4, 8) == EINVAL);
	CHECK(posix_memalign(&p, 64, huge) == ENOMEM && p == &work_bytes);
	kept = malloc(100);
	FATAL(kept);
	memset(kept, 7, 100);
	errno = 0;
	q = realloc(kept, huge);
	CHECK(q == NULL && errno == ENOMEM && kept[99] == 7);
	errno = 1234;
	free(kept);
	CHECK(errno == 1234);
	q = malloc(10);
	CHECK(realloc(q, 0) == NULL);
	CHECK(malloc_usable_size(NULL) == 0);
	CHECK(malloc_trim(0) >= 0);
	CHECK(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1);
}

static void test_alignment(void)
{
	for (size_t align = 8; align <= (1u << 21); align *= 2) {
		for (size_t size = 1; size < 3u << 20; size = size * 5 + 1) {
			void *p = NULL, *q = aligned_alloc(align, (size + align - 1) / align * align);
			void *r = memalign(align, size);

			CHECK(posix_memalign(&p, align, size) == 0);
			CHECK(p && q && r && p != q && q != r);
			CHECK(!((uintptr_t)p % align) && !((uintptr_t)q % align) && !((uintptr_t)r % align));
			CHECK(malloc_usable_size(p) >= size);
			memset(p, 1, size);
			memset(r, 2, malloc_usable_size(r));
			free(p);
			free(q);
			free(r);
		}
	}
	for (size_t size = 1; size < 1 << 20; size *= 3) {
		char *p = malloc(size), *v = valloc(size), *pv = pvalloc(size);

		CHECK(!((uintptr_t)p % (size < 16 ? 8 : 16)));
		CHECK(!((uintptr_t)v % PAGE) && !((uintptr_t)pv % PAGE));
		CHECK(malloc_usable_size(pv) >= (size + PAGE - 1) / PAGE * PAGE);
		free(p);
		free(v);
		free(pv);
	}
}

static bool is_all(const unsigned char *p, size_t n, unsigned char value)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != value)
			return false;
	return true;
}

static void test_calloc_after_use(void)
{
	for (int round = 0; round < 40; round++) {
		size_t size = 64ul << (round % 16);
		unsigned char *p = malloc(size), *q;

		FATAL(p);
		memset(p, 0xa5, size);
		free(p);
		q = calloc(size / 8, 8);
		FATAL(q);
		CHECK(is_all(q, size, 0));
		memset(q, 0x5a, size);
		free(q);
	}
}

static void test_realloc_chain(void)
{
	unsigned char *p = NULL;
	size_t old = 0;

	for (size_t size = 1; size < work_bytes / 2; size = size * 9 / 5 + 3) {
		p = realloc(p, size);
		FATAL(p);
		CHECK(is_all(p, old, 0x33));
		memset(p, 0x33, size);
		old = size;
	}
	while (old > 8) {
		size_t size = old / 3;

		p = realloc(p, size);
		FATAL(p);
		CHECK(is_all(p, size, 0x33));
		old = size;
	}
	p = realloc(p, 1 << 20);
	CHECK(p && is_all(p, old, 0x33));
	free(p);
}

static int skip_dots(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

/* Blocks that libc allocates and the program frees, and the other way round. */
static void test_libc_in_between(void)
{
	char *line = malloc(32), *text = NULL, *out = NULL, *path;
	size_t line_size = 32, out_size = 0;
	struct dirent **list = NULL;
	FILE *f = tmpfile();
	int n;

	FATAL(f && line);
	for (int i = 0; i < 400000; i++)
		putc('a' + i % 26, f);
	putc('\n', f);
	rewind(f);
	CHECK(getline(&line, &line_size, f) == 400001 && line[399999] == 'a' + 399999 % 26);
	line = realloc(line, 100);
	CHECK(line && line[99] == 'a' + 99 % 26);
	free(line);
	fclose(f);

	f = open_memstream(&out, &out_size);
	FATAL(f);
	for (int i = 0; i < 100000; i++)
		fprintf(f, "%d,", i);
	fclose(f);
	CHECK(out_size > 400000 && !strncmp(out, "0,1,2,3,", 8));
	out = realloc(out, out_size * 2);
	CHECK(out && out[out_size - 1] == ',');
	free(out);

	CHECK(asprintf(&text, "%0300000d", 5) == 300000 && text[299999] == '5');
	free(text);
	text = strdup("duplicate");
	CHECK(text && !strcmp(text, "duplicate"));
	free(text);
	text = strndup("duplicate", 3);
	CHECK(text && !strcmp(text, "dup"));
	free(text);
	path = realpath("/proc/self/..", NULL);
	CHECK(path && !strcmp(path, "/proc"));
	free(path);
	path = getcwd(NULL, 0);
	CHECK(path != NULL);
	free(path);
	n = scandir("/", &list, skip_dots, alphasort);
	CHECK(n > 0);
	for (int i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

static void test_buffers_of_the_program(void)
{
	char *buf = malloc(1 << 20), *in = malloc(1 << 20);
	FILE *f = tmpfile();

	FATAL(f && buf && in);
	setvbuf(f, buf, _IOFBF, 1 << 20);
	for (int i = 0; i < 300000; i++)
		fprintf(f, "%d\n", i);
	fflush(f);
	rewind(f);
	for (int i = 0; i < 300000; i++)
		if (!fgets(in, 100, f) || atoi(in) != i) {
			CHECK(!"lines come back");
			break;
		}
	fclose(f);
	free(in);
	free(buf);
}

/* ---- random blocks, allocated by one thread and freed by another ---------------------------------------- */

struct block {
	unsigned char *p;
	size_t size;
	unsigned char mark;
};

static struct block shared[SLOTS];
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t random_size(unsigned *seed)
{
	unsigned r = (unsigned)rand_r(seed);

	if (r % 64 == 0)
		return (size_t)rand_r(seed) % (work_bytes / SLOTS * 4) + 1;
	return r % 8 ? r % 600 + 1 : r % 40000 + 1;
}

static unsigned char *random_alloc(unsigned *seed, size_t size)
{
	void *p = NULL;

	switch (rand_r(seed) % 6) {
	case 0:
		p = calloc(1, size);
		CHECK(!p || is_all(p, size, 0));
		return p;
	case 1: return posix_memalign(&p, 16ul << rand_r(seed) % 9, size) ? NULL : p;
	case 2: return reallocarray(NULL, size, 1);
	case 3: return memalign(64, size);
	default: return malloc(size);
	}
}

static void change(struct block *b, unsigned *seed)
{
	if (b->p && rand_r(seed) % 3 == 0) {
		size_t size = random_size(seed);

		b->p = realloc(b->p, size);
		FATAL(b->p);
		CHECK(is_all(b->p, size < b->size ? size : b->size, b->mark));
		b->size = size;
	} else {
		if (b->p)
			CHECK(is_all(b->p, b->size, b->mark));
		free(b->p);
		b->size = random_size(seed);
		b->p = random_alloc(seed, b->size);
		FATAL(b->p);
	}
	CHECK(malloc_usable_size(b->p) >= b->size);
	b->mark = (unsigned char)rand_r(seed);
	memset(b->p, b->mark, b->size);
}

static pthread_key_t exit_key;

/* Runs while the thread exits, after the allocator's own per-thread state may be gone. */
static void at_thread_exit(void *p)
{
	void *q = malloc(3000);

	CHECK(q && is_all(p, 500, 0x77));
	free(p);
	free(q);
}

static void *worker(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	void *last = malloc(500);

	FATAL(last);
	memset(last, 0x77, 500);
	pthread_setspecific(exit_key, last);
	for (int i = 0; i < 12000; i++) {
		struct block mine = { 0 };
		int slot = rand_r(&seed) % SLOTS;

		pthread_mutex_lock(&shared_lock);
		mine = shared[slot];
		shared[slot].p = NULL;
		pthread_mutex_unlock(&shared_lock);
		change(&mine, &seed);
		pthread_mutex_lock(&shared_lock);
		if (shared[slot].p)
			slot = -1;
		else
			shared[slot] = mine;
		pthread_mutex_unlock(&shared_lock);
		if (slot < 0)
			free(mine.p);
	}
	return NULL;
}

static void test_threads(unsigned seed)
{
	pthread_t thread[THREADS];

	pthread_key_create(&exit_key, at_thread_exit);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < THREADS; i++)
			FATAL(!pthread_create(&thread[i], NULL, worker,
					      (void *)(uintptr_t)(seed + (unsigned)i)));
		for (int i = 0; i < THREADS; i++)
			pthread_join(thread[i], NULL);
		seed += THREADS;
	}
	for (int i = 0; i < SLOTS; i++) {
		if (shared[i].p)
			CHECK(is_all(shared[i].p, shared[i].size, shared[i].mark));
		free(shared[i].p);
		shared[i].p = NULL;
	}
}

/* Many small blocks, more than fits a small budget; every one is looked at again. */
static void test_many_small(void)
{
	size_t n = work_bytes / 128, bad = 0;
	uint64_t **block = calloc(n, sizeof(*block));

	FATAL(block);
	for (size_t i = 0; i < n; i++) {
		block[i] = malloc(100);
		FATAL(block[i]);
		block[i][0] = i;
		block[i][11] = ~i;
	}
	for (size_t i = 0; i < n; i++)
		bad += block[i][0] != i || block[i][11] != ~i;
	CHECK(bad == 0);
	for (size_t i = 0; i < n; i += 2)
		free(block[i]);
	for (size_t i = 1; i < n; i += 2)
		bad += block[i][0] != i || block[i][11] != ~i;
	CHECK(bad == 0);
	for (size_t i = 1; i < n; i += 2)
		free(block[i]);
	free(block);
}

static void at_exit_handler(void)
{
	char *p = malloc(100000);

	if (!p)
		_exit(97);
	memset(p, 1, 100000);
	free(p);
}

static void test_reports(void)
{
	size_t before = mallinfo2().uordblks;
	char *p = malloc(8 << 20), *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	FATAL(p && f);
	memset(p, 1, 8 << 20);
	/* caches of small blocks move the figure a little */
	CHECK(mallinfo2().uordblks + mallinfo2().hblkhd >= before + (7 << 20));
	CHECK(malloc_info(0, f) == 0);
	fclose(f);
	CHECK(strstr(text, "<malloc version") != NULL);
	free(text);
	free(p);
}

int main(int argc, char **argv)
{
	unsigned seed = check_seed(argc, argv);

	work_bytes = check_bytes(argc, argv, 64);
	atexit(at_exit_handler);
	test_results_and_errors();
	test_alignment();
	test_calloc_after_use();
	test_realloc_chain();
	test_libc_in_between();
	test_buffers_of_the_program();
	test_many_small();
	test_threads(seed);
	test_results_and_errors();
	test_calloc_after_use();
	test_reports();
	return check_finish("malloc_family");
}
