/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv.c - a key-value store whose values live in external memory, by the API of xmem.h alone. Explained in xmem(3).
 *
 *   kv URI [VALUES [LOCAL_MIB]]      for example: kv shm:/run/xmem/xmem-appliance.sock 100000 16
 *
 * The index (a hash table of keys and pointers) is ordinary memory; each value is a portion of one region. Pointers to
 * values stay valid while the values themselves come and go between local memory and the appliance.
 *
 *   index:  key -> struct entry { key, size, value } ---> portion in the region (a page, or a few)
 *
 * It stores VALUES (2 or more) values, rewrites every third, deletes every seventh, pins one that must always be at hand,
 * reads everything back and checks it, and prints what travelled. Exit status 0 when every value was right.
 */
#include <xmem.h>

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX 12000u

struct entry {
	struct entry *next;
	uint64_t key;
	uint32_t size;	  /* bytes of the value */
	uint32_t version; /* how often it was written: the check needs it */
	char *value;	  /* external memory */
};

struct store {
	struct xmem *x;
	struct xmem_region *region;
	struct entry **bucket;
	uint64_t buckets, values;
};

/* ---- the store ------------------------------------------------------------------------------------------------ */

static struct entry **find(struct store *s, uint64_t key)
{
	struct entry **at = &s->bucket[key * 0x9e3779b97f4a7c15ull % s->buckets];

	while (*at && (*at)->key != key)
		at = &(*at)->next;
	return at;
}

/* A portion of the region; when none is large enough any more, the region grows, which is the only case in which
 * the appliance is asked. */
static char *take_portion(struct store *s, uint32_t size, int *err)
{
	char *p = xmem_alloc(s->region, size, err);

	if (p || *err != -ENOMEM)
		return p;
	*err = xmem_region_resize(s->region, xmem_region_bytes(s->region) * 2);
	return *err == 0 ? xmem_alloc(s->region, size, err) : NULL;
}

static int put(struct store *s, uint64_t key, const char *value, uint32_t size)
{
	struct entry **at = find(s, key), *e = *at;
	int err = 0;

	if (e && e->size != size) {
		xmem_free(s->region, e->value);
		e->value = NULL;
	}
	if (!e) {
		e = calloc(1, sizeof(*e));
		if (!e)
			return -ENOMEM;
		e->key = key;
		e->next = *at;
		*at = e;
		s->values++;
	}
	if (!e->value)
		e->value = take_portion(s, size, &err);
	if (!e->value)
		return err;
	e->size = size;
	e->version++;
	memcpy(e->value, value, size); /* an ordinary pointer: faults bring pages in, eviction takes them away */
	return 0;
}

static void delete(struct store *s, uint64_t key)
{
	struct entry **at = find(s, key), *e = *at;

	if (!e)
		return;
	*at = e->next;
	xmem_free(s->region, e->value);
	free(e);
	s->values--;
}

/* ---- the demonstration ---------------------------------------------------------------------------------------- */

static uint32_t size_of(uint64_t key)
{
	return 100 + (uint32_t)(key * 2654435761u % (VALUE_MAX - 100));
}

static void make_value(char *to, uint64_t key, uint32_t version, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		to[i] = (char)(key * 31 + version * 7 + i);
}

static int fill(struct store *s, uint64_t n)
{
	char value[VALUE_MAX];
	int rc = 0;

	for (uint64_t k = 0; k < n && rc == 0; k++) {
		make_value(value, k, 1, size_of(k));
		rc = put(s, k, value, size_of(k));
	}
	for (uint64_t k = 0; k < n && rc == 0; k += 3) {
		make_value(value, k, 2, size_of(k));
		rc = put(s, k, value, size_of(k));
	}
	for (uint64_t k = 0; k < n; k += 7)
		delete(s, k);
	return rc;
}

static uint64_t count_wrong(struct store *s, uint64_t n)
{
	char expected[VALUE_MAX];
	uint64_t wrong = 0;

	for (uint64_t k = 0; k < n; k++) {
		struct entry *e = *find(s, k);

		if (!e) {
			wrong += k % 7 != 0;
			continue;
		}
		make_value(expected, k, e->version, e->size);
		wrong += memcmp(e->value, expected, e->size) != 0;
	}
	return wrong;
}

static void tell(struct xmem *x)
{
	struct xmem_stats st = { .size = sizeof(st) };

	if (xmem_get_stats(x, &st) != 0)
		return;
	printf("local %" PRIu64 " of %" PRIu64 " MiB, on the appliance %" PRIu64 " MiB; fetched %" PRIu64 " pages, evicted %" PRIu64
	       " (%" PRIu64 " without a write); %" PRIu64 " control messages\n",
	       st.resident_bytes >> 20, st.budget_bytes >> 20, st.remote_bytes >> 20, st.fetched_pages, st.evicted_pages,
	       st.evicted_clean_pages + st.evicted_zero_pages, st.control_messages);
}

static int run(struct store *s, uint64_t n)
{
	struct entry *hot;
	uint64_t wrong;
	int rc = fill(s, n);

	if (rc != 0) {
		fprintf(stderr, "kv: storing: %s\n", xmem_strerror(rc));
		return 1;
	}
	printf("%" PRIu64 " values stored\n", s->values);
	tell(s->x);
	hot = *find(s, 1);
	rc = xmem_pin(s->x, hot->value, 4096); /* always at hand from here on */
	if (rc != 0)
		fprintf(stderr, "kv: pin: %s\n", xmem_strerror(rc));
	wrong = count_wrong(s, n);
	printf("%" PRIu64 " values wrong\n", wrong);
	tell(s->x);
	return wrong != 0;
}

/* text NULL: *out stays. false: not a decimal number from min to max. */
static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	char *end;

	if (!text)
		return true;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *out >= min && *out <= max;
}

int main(int argc, char **argv)
{
	const char *appliances[] = { argc > 1 ? argv[1] : NULL, NULL };
	struct xmem_options o = { .size = sizeof(o), .appliances = appliances };
	uint64_t n = 20000, local_mib = 16;
	struct store s = { 0 };
	int err = 0, rc;

	/* value 1 is pinned, so there must be one */
	if (argc < 2 || argc > 4 || !number(argc > 2 ? argv[2] : NULL, 2, 1u << 30, &n) ||
	    !number(argc > 3 ? argv[3] : NULL, 4, 1u << 30, &local_mib)) {
		fprintf(stderr, "usage: kv URI [VALUES [LOCAL_MIB]] (at least 2 values, at least 4 MiB)\n");
		return 2;
	}
	o.local_bytes = local_mib << 20;
	s.buckets = n * 2 + 1;
	s.x = xmem_open(&o, &err); /* says itself what is wrong */
	if (!s.x)
		return 1;
	/* acquired ahead of need: from here on allocating is a decision of this process alone */
	s.region = xmem_region_create(s.x, 0, 64 << 20, NULL, &err);
	s.bucket = calloc(s.buckets, sizeof(struct entry *));
	if (!s.region || !s.bucket) {
		fprintf(stderr, "kv: no region: %s\n", xmem_strerror(err));
		xmem_close(s.x);
		return 1;
	}
	rc = run(&s, n);
	for (uint64_t k = 0; k < n; k++)
		delete(&s, k);
	free(s.bucket);
	xmem_close(s.x); /* gives the region back */
	return rc;
}
