/* SPDX-License-Identifier: Apache-2.0 */
/* test_units.c - parsing and formatting of sizes and times; the memory limit from made-up cgroup trees. */
#include "units.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "util.h"

static void size_is(const char *text, uint64_t want)
{
	uint64_t got = 1;

	assert_int_equal(xm_parse_size(text, 0, &got), 0);
	assert_int_equal(got, want);
}

static void test_parse_size_when_wellformed_then_bytes(void **unused)
{
	size_is("0", 0);
	size_is("4096", 4096);
	size_is("512B", 512);
	size_is("64k", 65536);
	size_is("64K", 65536);
	size_is("64KB", 65536);
	size_is("64KiB", 65536);
	size_is("256M", 256ull << 20);
	size_is("1.5G", 3ull << 29);
	size_is("0.1K", 102);
	size_is("2T", 2ull << 40);
	size_is("3P", 3ull << 50);
	size_is("18446744073709551615", UINT64_MAX);
	size_is("1.50000000000000000000000000000000K", 1536);
}

static void test_parse_size_when_malformed_then_einval_and_untouched(void **unused)
{
	static const char *const bad[] = { "",	   " 1",   "1 ",  "-1",	 "+1",	 "G",	  "1.G",
					   ".5G",  "1.5",  "12Q", "1KK", "1Ki",	 "1GiBx", "1e3",
					   "0x10", "1,5G", "25%", "%",	 "1.5B", "1..5G" };
	uint64_t got = 77;
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(bad); i++) {
		if (xm_parse_size(bad[i], 0, &got) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		assert_int_equal(got, 77);
	}
}

static void test_parse_size_when_too_large_then_erange(void **unused)
{
	uint64_t got = 77;

	assert_int_equal(xm_parse_size("18446744073709551616", 0, &got), -ERANGE);
	assert_int_equal(xm_parse_size("99999999999999999999999999", 0, &got), -ERANGE);
	assert_int_equal(xm_parse_size("16384P", 0, &got), -ERANGE);
	assert_int_equal(xm_parse_size("200%", UINT64_MAX, &got), -ERANGE);
	assert_int_equal(got, 77);
}

static void test_parse_size_when_percent_then_of_the_whole(void **unused)
{
	uint64_t got;

	assert_int_equal(xm_parse_size("25%", 4096, &got), 0);
	assert_int_equal(got, 1024);
	assert_int_equal(xm_parse_size("12.5%", 1000, &got), 0);
	assert_int_equal(got, 125);
	assert_int_equal(xm_parse_size("100%", UINT64_MAX, &got), 0);
	assert_true(got == UINT64_MAX);
}

static void test_parse_time_when_wellformed_then_ns(void **unused)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = { { "0", 0 },
		     { "5ns", 5 },
		     { "500us", 500000 },
		     { "10ms", 10000000 },
		     { "2.5s", 2500000000ull },
		     { "1m", 60000000000ull },
		     { "1h", 3600000000000ull },
		     { "0.5m", 30000000000ull },
		     { "0s", 0 } };
	uint64_t got = 1;
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(good); i++) {
		assert_int_equal(xm_parse_time(good[i].text, &got), 0);
		assert_true(got == good[i].ns);
	}
}

static void test_parse_time_when_malformed_then_error(void **unused)
{
	uint64_t got = 77;

	assert_int_equal(xm_parse_time("5", &got), -EINVAL);
	assert_int_equal(xm_parse_time("0.0", &got), -EINVAL);
	assert_int_equal(xm_parse_time("5 s", &got), -EINVAL);
	assert_int_equal(xm_parse_time("5sec", &got), -EINVAL);
	assert_int_equal(xm_parse_time("-5s", &got), -EINVAL);
	assert_int_equal(xm_parse_time("", &got), -EINVAL);
	assert_int_equal(xm_parse_time("9999999h", &got), -ERANGE);
	assert_int_equal(got, 77);
}

static void test_parse_u64_when_bounds_then_kept(void **unused)
{
	uint64_t got = 77;

	assert_int_equal(xm_parse_u64("4", 5, 9, &got), -ERANGE);
	assert_int_equal(xm_parse_u64("10", 5, 9, &got), -ERANGE);
	assert_int_equal(xm_parse_u64("1.0", 0, 9, &got), -EINVAL);
	assert_int_equal(xm_parse_u64("7x", 0, 9, &got), -EINVAL);
	assert_int_equal(got, 77);
	assert_int_equal(xm_parse_u64("5", 5, 9, &got), 0);
	assert_int_equal(got, 5);
	assert_int_equal(xm_parse_u64("18446744073709551615", 0, UINT64_MAX, &got), 0);
	assert_true(got == UINT64_MAX);
}

static void test_format_size_when_various_then_four_digits(void **unused)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },
		{ 512, "512 B" },
		{ 1023, "1023 B" },
		{ 1024, "1 KiB" },
		{ 1536, "1.5 KiB" },
		{ 3ull << 29, "1.5 GiB" },
		{ 1048575, "1 MiB" },
		{ (1ull << 30) - 1, "1 GiB" },
		{ 1023ull << 20, "1023 MiB" },
		{ 1000ull << 10, "1000 KiB" },
		{ 1234567, "1.177 MiB" },
		{ 1063000, "1.014 MiB" },
		{ UINT64_MAX, "16 EiB" },
	};
	char buf[24];
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(cases); i++)
		assert_string_equal(xm_format_size(cases[i].bytes, buf, sizeof(buf)), cases[i].text);
}

static void test_format_time_when_various_then_readable(void **unused)
{
	static const struct {
		uint64_t ns;
		const char *text;
	} cases[] = {
		{ 0, "0 ns" },
		{ 999, "999 ns" },
		{ 3200, "3.2 us" },
		{ 999949, "999.9 us" },
		{ 999950, "1.0 ms" },
		{ 12340000, "12.3 ms" },
		{ 999950000, "1.00 s" },
		{ 1500000000, "1.50 s" },
		{ 1005000000, "1.01 s" },
		{ UINT64_MAX, "18446744073.71 s" },
	};
	char buf[24];
	unsigned i;

	for (i = 0; i < XM_ARRAY_SIZE(cases); i++)
		assert_string_equal(xm_format_time(cases[i].ns, buf, sizeof(buf)), cases[i].text);
}

/* ---- memory limits ---------------------------------------------------------------------------------- */

static char root[64];

static void shell(const char *fmt, const char *arg)
{
	char cmd[256];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(cmd, sizeof(cmd), fmt, arg);
#pragma GCC diagnostic pop
	assert_int_equal(system(cmd), 0);
}

static int make_root(void **unused)
{
	strcpy(root, "/tmp/xm_test_units.XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **unused)
{
	shell("rm -rf '%s'", root);
	return 0;
}

/* writes a file below root, making its folders */
static void put(const char *path, const char *text)
{
	char full[512], *p;
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(full, 0755);
		*p = '/';
	}
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

#define MOUNT_V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"

static void test_cgroup_limit_when_v2_ancestor_is_tighter_then_ancestor(void **unused)
{
	put("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" MOUNT_V2);
	put("/proc/self/cgroup", "0::/a/b\n");
	put("/sys/fs/cgroup/a/memory.max", "1048576\n");
	put("/sys/fs/cgroup/a/b/memory.max", "2097152\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 1048576);
	put("/sys/fs/cgroup/a/memory.max", "max\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 2097152);
	put("/sys/fs/cgroup/a/b/memory.max", "max\n");
	assert_true(xm_cgroup_limit_bytes(root) == UINT64_MAX);
}

static void test_cgroup_limit_when_v1_then_memory_controller_counts(void **unused)
{
	put("/proc/self/mountinfo",
	    "31 23 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
	    "32 23 0:28 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n");
	put("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/j/k\n0::/y\n");
	put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/fs/cgroup/memory/j/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/fs/cgroup/memory/j/k/memory.limit_in_bytes", "4194304\n");
	put("/sys/fs/cgroup/cpu/x/memory.limit_in_bytes", "1\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 4194304);
}

static void test_cgroup_limit_when_mount_shows_a_part_then_relative_to_it(void **unused)
{
	put("/proc/self/mountinfo", "30 23 0:26 /docker/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
	put("/proc/self/cgroup", "0::/docker/c1/sub\n");
	put("/sys/fs/cgroup/memory.max", "8388608\n");
	put("/sys/fs/cgroup/sub/memory.max", "max\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 8388608);
	/* a sibling's name that begins alike is no part of the mount */
	put("/proc/self/cgroup", "0::/docker/c12\n");
	put("/sys/fs/cgroup/2/memory.max", "4096\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 8388608);
}

static void test_cgroup_limit_when_outside_of_namespace_then_mount_root_only(void **unused)
{
	put("/proc/self/mountinfo", MOUNT_V2);
	put("/proc/self/cgroup", "0::/../other\n");
	put("/sys/fs/other/memory.max", "4096\n");
	put("/sys/fs/cgroup/memory.max", "16777216\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 16777216);
}

static void test_cgroup_limit_when_lines_are_overlong_or_odd_then_skipped(void **unused)
{
	char *text = malloc(20000);

	assert_non_null(text);
	memset(text, 'x', 9000);
	strcpy(text + 9000, " - overlay overlay rw\n\nbroken\n1 2 3 - cgroup2\n" MOUNT_V2);
	put("/proc/self/mountinfo", text);
	free(text);
	put("/proc/self/cgroup", "nonsense\n1\n0::/a\n");
	put("/sys/fs/cgroup/a/memory.max", "123456789\n");
	assert_int_equal(xm_cgroup_limit_bytes(root), 123456789);
}

static void test_cgroup_limit_when_nothing_is_there_then_none(void **unused)
{
	assert_true(xm_cgroup_limit_bytes(root) == UINT64_MAX);
}

static void test_machine_memory_when_asked_then_at_most_physical(void **unused)
{
	uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t got = xm_machine_memory_bytes();

	assert_true(got > 0 && got <= physical);
	assert_true(got == xm_min(physical, xm_cgroup_limit_bytes("")));
}

#define WITH_ROOT(t) cmocka_unit_test_setup_teardown(t, make_root, remove_root)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_size_when_wellformed_then_bytes),
		cmocka_unit_test(test_parse_size_when_malformed_then_einval_and_untouched),
		cmocka_unit_test(test_parse_size_when_too_large_then_erange),
		cmocka_unit_test(test_parse_size_when_percent_then_of_the_whole),
		cmocka_unit_test(test_parse_time_when_wellformed_then_ns),
		cmocka_unit_test(test_parse_time_when_malformed_then_error),
		cmocka_unit_test(test_parse_u64_when_bounds_then_kept),
		cmocka_unit_test(test_format_size_when_various_then_four_digits),
		cmocka_unit_test(test_format_time_when_various_then_readable),
		WITH_ROOT(test_cgroup_limit_when_v2_ancestor_is_tighter_then_ancestor),
		WITH_ROOT(test_cgroup_limit_when_v1_then_memory_controller_counts),
		WITH_ROOT(test_cgroup_limit_when_mount_shows_a_part_then_relative_to_it),
		WITH_ROOT(test_cgroup_limit_when_outside_of_namespace_then_mount_root_only),
		WITH_ROOT(test_cgroup_limit_when_lines_are_overlong_or_odd_then_skipped),
		WITH_ROOT(test_cgroup_limit_when_nothing_is_there_then_none),
		cmocka_unit_test(test_machine_memory_when_asked_then_at_most_physical),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
