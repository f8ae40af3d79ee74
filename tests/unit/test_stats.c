/* SPDX-License-Identifier: Apache-2.0 */
/* test_stats.c - statistics as text and JSON: sums, coverage, quoting, and that what is printed can be read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/stats.h"

/* ---- a judge of JSON: RFC 8259's grammar, nothing else ------------------------------------------------- */

static const char *json_value(const char *p);

static const char *json_space(const char *p)
{
	while (p && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
		p++;
	return p;
}

static const char *json_string(const char *p)
{
	if (*p++ != '"')
		return NULL;
	for (; *p && *p != '"'; p++) {
		if ((unsigned char)*p < 0x20)
			return NULL;
		if (*p != '\\')
			continue;
		p++;
		if (*p == 'u') {
			if (strspn(p + 1, "0123456789abcdefABCDEF") < 4)
				return NULL;
			p += 4;
		} else if (!*p || !strchr("\"\\/bfnrt", *p)) {
			return NULL;
		}
	}
	return *p ? p + 1 : NULL;
}

static const char *json_number(const char *p)
{
	size_t n;

	p += *p == '-';
	n = strspn(p, "0123456789");
	if (!n || (n > 1 && *p == '0'))
		return NULL;
	p += n;
	if (*p == '.') {
		n = strspn(p + 1, "0123456789");
		return n ? p + 1 + n : NULL;
	}
	return p;
}

static const char *json_members(const char *p, char close, int named)
{
	p = json_space(p + 1);
	if (*p == close)
		return p + 1;
	for (;;) {
		if (named) {
			p = json_space(json_string(p));
			if (!p || *p != ':')
				return NULL;
			p = json_space(p + 1);
		}
		p = json_space(json_value(p));
		if (!p)
			return NULL;
		if (*p == close)
			return p + 1;
		if (*p != ',')
			return NULL;
		p = json_space(p + 1);
	}
}

static const char *json_value(const char *p)
{
	if (*p == '{')
		return json_members(p, '}', 1);
	if (*p == '[')
		return json_members(p, ']', 0);
	if (*p == '"')
		return json_string(p);
	if (strncmp(p, "true", 4) == 0 || strncmp(p, "null", 4) == 0)
		return p + 4;
	if (strncmp(p, "false", 5) == 0)
		return p + 5;
	return json_number(p);
}

static int is_json(const char *text)
{
	const char *end = json_space(json_value(json_space(text)));

	return end && !*end;
}

/* ---- a family with something to tell ------------------------------------------------------------------- */

static char text[1 << 20];
static int scratch; /* what is printed goes through this file */

static int setup(void **state)
{
	struct xm_family_config cfg = { .budget_bytes = 64 << 20,
					.appliances = 1,
					.evict = "s3fifo",
					.prefetch = "majority",
					.appliance = { { .uri = "shm:/run/\"x\"\\y" } } };
	int err = 0;
	struct xm_family *f = xm_family_create(&cfg, NULL, &err);

	assert_non_null(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	xm_family_unmap(*state);
	return 0;
}

static struct xm_proc *add_process(struct xm_family *f)
{
	uint32_t i = (uint32_t)xm_family_proc_claim(f);

	assert_int_equal(xm_family_proc_live(f, i), 0);
	/* two entries of one process would be taken for an exec */
	f->proc[i].pid += (int)(i + 1) * 100000000;
	return &f->proc[i];
}

static void out_begin(struct xm_out *o)
{
	if (!scratch)
		scratch = memfd_create("out", MFD_CLOEXEC);
	assert_int_equal(ftruncate(scratch, 0), 0);
	lseek(scratch, 0, SEEK_SET);
	xm_out_to_fd(o, scratch);
}

/* What was printed since out_begin(). */
static char *out_end(struct xm_out *o)
{
	ssize_t n;

	assert_int_equal(xm_out_flush(o), 0);
	n = pread(scratch, text, sizeof(text), 0);
	assert_in_range(n, 0, sizeof(text) - 1);
	text[n] = 0;
	return text;
}

static const char *as_json(struct xm_family *f, const struct xm_stats_run *run)
{
	struct xm_out o;

	out_begin(&o);
	xm_stats_json(&o, f, run);
	return out_end(&o);
}

static const char *as_text(struct xm_family *f, const struct xm_stats_run *run)
{
	struct xm_out o;

	out_begin(&o);
	xm_stats_text(&o, f, run);
	return out_end(&o);
}

/* ---- tests ---------------------------------------------------------------------------------------------- */

static void test_judge_when_given_no_json_says_so(void **state)
{
	assert_true(is_json("{\"a\": [1, -2.5, null, {}], \"b\": \"\\u00ff\\n\"}\n"));
	assert_false(is_json("{\"a\": 01}"));
	assert_false(is_json("{\"a\": 1,}"));
	assert_false(is_json("{\"a\": 1} x"));
	assert_false(is_json("{\"a\": \"\n\"}"));
	assert_false(is_json("{'a': 1}"));
}

static void test_json_of_an_empty_family_is_json(void **state)
{
	assert_true(is_json(as_json(*state, NULL)));
	assert_non_null(strstr(text, "\"coverage\": null"));
	assert_non_null(strstr(text, "\"processes\": []"));
	assert_null(strstr(text, "\"run\""));
}

static void test_json_of_a_busy_family_is_json_and_names_every_counter(void **state)
{
	struct xm_stats_run run = { .command = "a\"b", .wall_ns = 5, .wait_status = SIGKILL };
	struct xm_family *f = *state;

	for (int n = 0; n < 40; n++) {
		struct xm_proc *p = add_process(f);

		p->stats.faults_fetch = 10;
		memset(p->comm, '\\', sizeof(p->comm));
		memset(p->exe, 0xff, sizeof(p->exe));
		xm_hist_record(&p->stats.evict_ns, 123456);
	}
	f->appliance[0].valid = 1;
	f->appliance[0].path = (struct xm_link_path){ .device = "rxe0", .port = 1, .gid_index = 3, .gid = { 0xfe, 0x80 },
						      .mtu_bytes = 2048 };
	f->appliance[0].retries = -1;
	f->proc[0].stats.link[0] = (struct xm_link_stats){ .reads = 9, .polls = 4, .completions = 9, .errors = 2 };
	assert_true(is_json(as_json(f, &run)));
	assert_non_null(strstr(text, "\"device\": \"rxe0\", \"port\": 1, \"gid_index\": 3, \"gid\": \"fe80::\", "
				     "\"path_mtu_bytes\": 2048, \"device_retries\": null, \"link\": {\"reads\": 9, "));
	assert_non_null(strstr(text, "\"errors\": 2, \"reconnects\": 0}"));
	f->appliance[0].retries = 1234;
	assert_non_null(strstr(as_json(f, &run), "\"device_retries\": 1234"));
	assert_non_null(strstr(as_text(f, NULL), "rxe0 port 1, GID 3 (fe80::), path MTU 2048"));
	assert_non_null(strstr(text, "9 operations, 2.2 completions a poll, 2 errors"));
	assert_non_null(strstr(text, "1,234 retries of the whole device"));
	as_json(f, &run);
	assert_non_null(strstr(text, "\"signal\": 9"));
	assert_non_null(strstr(text, "\"faults_fetch\": 400"));
	assert_non_null(strstr(text, "\"prefetch_waste_pages\": 0"));
	assert_non_null(strstr(text, "\"evict_ns\": {\"count\": 40"));
	assert_non_null(strstr(text, "\"uri\": \"shm:/run/\\\"x\\\"\\\\y\""));
}

static void test_json_string_of_any_bytes_is_json(void **state)
{
	static const char *const odd[] = { "",
					   "a\"\\\n\x01\x7f",
					   "\xc3\xa4",
					   "\xff\xfe",
					   "\xc0\x80",
					   "\xed\xa0\x80",
					   "\xf0\x9f\x98\x80",
					   "\xf4\x90\x80\x80",
					   "\xe2\x82",
					   NULL };
	unsigned seed = (unsigned)getpid();
	char bytes[64];
	struct xm_out o;

	for (int i = 0; odd[i]; i++) {
		out_begin(&o);
		xm_out_json_string(&o, odd[i]);
		assert_true(is_json(out_end(&o)));
	}
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int n = 0; n < 20000; n++) {
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (char)random();
		bytes[sizeof(bytes) - 1] = 0;
		out_begin(&o);
		xm_out_json_string(&o, bytes);
		assert_true(is_json(out_end(&o)));
	}
}

static void test_json_string_keeps_utf8_and_replaces_the_rest(void **state)
{
	struct xm_out o;

	out_begin(&o);
	xm_out_json_string(&o, "\xc3\xa4\xff\xf0\x9f\x98\x80");
	assert_string_equal(out_end(&o), "\"\xc3\xa4\\ufffd\xf0\x9f\x98\x80\"");
}

static void test_sum_adds_processes_and_those_whose_entries_were_reused(void **state)
{
	struct xm_family *f = *state;
	struct xm_proc *a = add_process(f), *b = add_process(f);
	static struct xm_stats_sum sum;

	a->stats.faults_zero = 1;
	b->stats.faults_zero = 2;
	f->ended.faults_zero = 4;
	f->ended_procs = 1;
	a->stats.over_budget_pages_max = 9;
	b->stats.over_budget_pages_max = 7;
	a->stats.external_pages_max = 100;
	b->stats.external_pages_max = 50;
	a->stats.resident_pages = 20;
	b->stats.remote_pages = 30;
	a->stats.link[0].reads = 5;
	b->stats.link[1].reads = 6;
	f->ended.link[1].reads = 7;
	xm_hist_record(&a->stats.zero_ns, 100);
	xm_hist_record(&b->stats.zero_ns, 100000);
	xm_stats_sum(f, &sum);
	assert_int_equal(sum.total.faults_zero, 7);
	assert_int_equal(sum.total.over_budget_pages_max, 9);
	assert_int_equal(sum.total.external_pages_max, 150);
	assert_int_equal(sum.external_pages_max, 100);
	assert_int_equal(sum.total.zero_ns.count, 2);
	assert_int_equal(sum.total.zero_ns.max, 100000);
	assert_int_equal(sum.total.link[0].reads, 5);
	assert_int_equal(sum.total.link[1].reads, 13);
	assert_int_equal(sum.processes, 3);
	assert_non_null(strstr(as_json(f, NULL), "\"link_reads\": 18, "));
	assert_int_equal(sum.live, 2);
	assert_int_equal(xm_stats_external_pages(f), 50);
	f->external_pages_max = 120;
	xm_stats_sum(f, &sum);
	assert_int_equal(sum.external_pages_max, 120);
}

static void test_coverage_is_external_over_all_private(void **state)
{
	static struct xm_proc_stats s;

	assert_int_equal(xm_stats_coverage_permille(&s), -1);
	s.external_pages_max = 90;
	s.anon_local_bytes = 10 * 4096;
	assert_int_equal(xm_stats_coverage_permille(&s), 900);
	s.external_pages_max = 0;
	assert_int_equal(xm_stats_coverage_permille(&s), 0);
	s.external_pages_max = 1ull << 40; /* 4 PiB */
	assert_int_equal(xm_stats_coverage_permille(&s), 999);
}

static void test_text_of_a_quiet_family_says_errors_none(void **state)
{
	struct xm_stats_run run = { .command = "true", .wall_ns = 1500000000 };

	assert_non_null(strstr(as_text(*state, &run), "xmem: true: exit status 0 after 1.50 s"));
	assert_non_null(strstr(text, "errors            none"));
	assert_null(strstr(text, "STALLS"));
}

static void test_text_of_trouble_names_it_and_fits_the_screen(void **state)
{
	struct xm_stats_run run = { .command = "redis-server", .wait_status = SIGSEGV, .still_running = 2 };
	struct xm_family *f = *state;
	struct xm_proc *p = add_process(f);
	uint64_t *counters = (uint64_t *)&p->stats;

	for (size_t i = 0; i < offsetof(struct xm_proc_stats, fetch_ns) / 8; i++)
		counters[i] = 12345678;
	for (int i = 0; i < 1000; i++)
		xm_hist_record(&p->stats.fetch_ns, (uint64_t)i * 1000000);
	f->uncovered = 1;
	f->appliance[0].valid = 1;
	f->appliance[0].status = -107;
	as_text(f, &run);
	assert_non_null(strstr(text, "killed by signal 11 (SIGSEGV)"));
	assert_non_null(strstr(text, "12,345,678 touches of pages lost"));
	assert_non_null(strstr(text, "STALLS"));
	assert_non_null(strstr(text, "NOT covered"));
	assert_non_null(strstr(text, "NOT REACHABLE"));
	assert_non_null(strstr(text, "2 processes of the family"));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_true(strlen(line) <= 100);
}

static void test_output_to_a_pipe_arrives_whole(void **state)
{
	struct xm_out o;
	int p[2];
	size_t n = 0;
	ssize_t got;

	assert_int_equal(pipe(p), 0);
	xm_out_to_fd(&o, p[1]);
	for (int i = 0; i < 5000; i++)
		xm_out_print(&o, "%04d\n", i);
	assert_int_equal(xm_out_flush(&o), 0);
	close(p[1]);
	while ((got = read(p[0], text + n, sizeof(text) - n)) > 0)
		n += (size_t)got;
	close(p[0]);
	assert_int_equal(n, 25000);
	assert_memory_equal(text + n - 5, "4999\n", 5);
}

static void test_parts_are_counted_or_estimated(void **state)
{
	struct xm_family *f = *state;
	struct xm_proc_stats *s = &add_process(f)->stats;
	const struct xm_hist *part = xm_stats_parts(s);

	for (int i = 0; i < 1000; i++)
		xm_hist_record(&s->part_rest_ns, 500);
	for (int i = 0; i < 100; i++)
		xm_hist_record(&s->part_fetch_ns, 20000);
	xm_hist_record(&s->part_wait_ns, 1000000);
	xm_hist_record(&s->part_install_ns, 2000);
	xm_hist_record(&s->part_install_ns, 4000);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_REST), 500000);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_FETCH), 2000000);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_WAIT), 1000000);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_INSTALL), 6000 * XM_INSTALL_SAMPLE);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_DELIVERY), 0); /* no sample */
	as_text(f, NULL);
	assert_non_null(strstr(text, "too short a run to sample delivery and return"));
	assert_null(strstr(text, "    delivery"));
	/* one sample of a second among short ones does not make all faults long */
	for (int i = 0; i < 9; i++)
		xm_hist_record(&s->part_delivery_ns, 15);
	xm_hist_record(&s->part_delivery_ns, 1000000000);
	xm_hist_record(&s->part_return_ns, 10);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_DELIVERY), 15 * 1000);
	assert_int_equal(xm_stats_part_ns(part, XM_PART_RETURN), 10 * 1000);
	/* 15 us + 1 ms + 2 ms + 1.536 ms + 500 us + 10 us of 1000 faults */
	as_text(f, NULL);
	assert_non_null(strstr(text, " 5.1 us a fault\n"));
	assert_non_null(strstr(strstr(text, "    fetch "), " 39% "));
	as_json(f, NULL);
	assert_non_null(strstr(text, "\"part_wait_ns\": {\"count\": 1, \"mean\": 1000000"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_judge_when_given_no_json_says_so),
		cmocka_unit_test_setup_teardown(test_json_of_an_empty_family_is_json, setup, teardown),
		cmocka_unit_test_setup_teardown(test_json_of_a_busy_family_is_json_and_names_every_counter,
						setup, teardown),
		cmocka_unit_test(test_json_string_of_any_bytes_is_json),
		cmocka_unit_test(test_json_string_keeps_utf8_and_replaces_the_rest),
		cmocka_unit_test_setup_teardown(test_sum_adds_processes_and_those_whose_entries_were_reused,
						setup, teardown),
		cmocka_unit_test(test_coverage_is_external_over_all_private),
		cmocka_unit_test_setup_teardown(test_text_of_a_quiet_family_says_errors_none, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_text_of_trouble_names_it_and_fits_the_screen, setup,
						teardown),
		cmocka_unit_test(test_output_to_a_pipe_arrives_whole),
		cmocka_unit_test_setup_teardown(test_parts_are_counted_or_estimated, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
