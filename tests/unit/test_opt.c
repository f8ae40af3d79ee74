/* SPDX-License-Identifier: Apache-2.0 */
/* test_opt.c - command lines and files against one table; what is printed is caught in a file. */
#include "opt.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "util.h"

static struct {
	bool verbose, wait;
	const char *name, *check;
	uint64_t local, delay, threads, plain;
	int mode;
	struct xm_opt_list list;
} v;

static uint64_t thousand(void)
{
	return 1000;
}

static const char *const modes[] = { "thread", "signal", NULL };

static const struct xm_opt opts[] = {
	{ .name = "verbose", .letter = 'v', .type = XM_OPT_FLAG, .var = &v.verbose, .help = "say more" },
	{ .name = "wait", .letter = 'w', .type = XM_OPT_FLAG, .var = &v.wait, .help = "wait for it" },
	{ .name = "name",
	  .letter = 'n',
	  .type = XM_OPT_STRING,
	  .var = &v.name,
	  .value_name = "NAME",
	  .help = "a name" },
	{ .name = "check",
	  .type = XM_OPT_OPTIONAL_STRING,
	  .var = &v.check,
	  .value_name = "WHAT",
	  .help = "check",
	  .command_line_only = true },
	{ .name = "local",
	  .letter = 'l',
	  .type = XM_OPT_SIZE,
	  .var = &v.local,
	  .value_name = "SIZE",
	  .help = "local memory, in bytes or percent of the machine's; this text is long enough to be wrapped",
	  .min = 10,
	  .max = 1ull << 40,
	  .percent_of = thousand },
	{ .name = "plain", .type = XM_OPT_SIZE, .var = &v.plain, .help = "a size", .min = 4096 },
	{ .name = "delay", .type = XM_OPT_TIME, .var = &v.delay, .help = "a time", .max = 1000000000 },
	{ .name = "threads",
	  .letter = 't',
	  .type = XM_OPT_U64,
	  .var = &v.threads,
	  .help = "how many",
	  .min = 1,
	  .max = 64 },
	{ .name = "mode", .type = XM_OPT_ENUM, .var = &v.mode, .names = modes, .help = "fault mode" },
	{ .name = "appliance",
	  .letter = 'a',
	  .type = XM_OPT_LIST,
	  .var = &v.list,
	  .help = "may be repeated" },
	{ .name = NULL },
};

static const struct xm_opt_program prog = {
	.name = "prog",
	.synopsis = "[options] -- command",
	.summary = "Does a thing.",
	.epilog = "example:\n  prog -v -- true",
	.opts = opts,
};

static char said[8192];

/* Parses the words while descriptors 1 and 2 go to a file, which is read into said[]. */
static int parse_words(char **words, int *first)
{
	char path[] = "/tmp/xm_test_opt.XXXXXX";
	int argc = 0, ret, file = mkstemp(path), out = dup(1), err = dup(2);
	ssize_t n;

	assert_true(file >= 0 && out >= 0 && err >= 0);
	unlink(path);
	while (words[argc])
		argc++;
	memset(&v, 0, sizeof(v));
	fflush(stdout);
	dup2(file, 1);
	dup2(file, 2);
	ret = xm_opt_parse(&prog, argc, words, first);
	dup2(out, 1);
	dup2(err, 2);
	close(out);
	close(err);
	n = pread(file, said, sizeof(said) - 1, 0);
	said[n > 0 ? n : 0] = '\0';
	close(file);
	return ret;
}

#define PARSE(first, ...) parse_words((char *[]){ "prog", __VA_ARGS__, NULL }, first)

static void test_parse_when_all_forms_then_values(void **unused)
{
	int first = -1;

	assert_int_equal(PARSE(&first, "--name=x", "--local", "25%", "-t", "8", "-vw", "--mode=signal",
			       "-aone", "-a", "two", "--delay=10ms", "cmd", "--name=z"),
			 0);
	assert_int_equal(first, 12);
	assert_string_equal(v.name, "x");
	assert_int_equal(v.local, 250);
	assert_int_equal(v.threads, 8);
	assert_true(v.verbose && v.wait);
	assert_int_equal(v.mode, 1);
	assert_int_equal(v.delay, 10000000);
	assert_int_equal(v.list.n, 2);
	assert_string_equal(v.list.v[0], "one");
	assert_string_equal(v.list.v[1], "two");
	assert_string_equal(said, "");
}

static void test_parse_when_no_words_or_dashes_then_first_word(void **unused)
{
	int first = -1;

	assert_int_equal(parse_words((char *[]){ "prog", NULL }, &first), 0);
	assert_int_equal(first, 1);
	assert_int_equal(PARSE(&first, "-v", "--", "-w"), 0);
	assert_int_equal(first, 3);
	assert_true(v.verbose && !v.wait);
	assert_int_equal(PARSE(&first, "-v", "--"), 0);
	assert_int_equal(first, 3);
	assert_int_equal(PARSE(&first, "-", "-v"), 0);
	assert_int_equal(first, 1);
}

static void test_parse_when_flag_is_negated_then_false(void **unused)
{
	int first;

	assert_int_equal(PARSE(&first, "--verbose", "--wait", "--no-verbose", "--wait=off"), 0);
	assert_false(v.verbose || v.wait);
	assert_int_equal(PARSE(&first, "--no-name"), -EINVAL);
	assert_int_equal(PARSE(&first, "--no-wait=yes"), -EINVAL);
	assert_string_equal(said, "prog: error: --no-wait: takes no value\n");
}

static void test_parse_when_optional_value_then_only_behind_equals(void **unused)
{
	int first;

	assert_int_equal(PARSE(&first, "-v"), 0);
	assert_null(v.check);
	assert_int_equal(PARSE(&first, "--check", "word"), 0);
	assert_string_equal(v.check, "");
	assert_int_equal(first, 2);
	assert_int_equal(PARSE(&first, "--check=uffd"), 0);
	assert_string_equal(v.check, "uffd");
}

static void refused(const char *word, const char *line)
{
	int first;

	assert_int_equal(PARSE(&first, (char *)(uintptr_t)word), -EINVAL);
	assert_string_equal(said, line);
}

static void test_parse_when_value_is_bad_then_one_line_says_so(void **unused)
{
	refused("--local=12Q", "prog: error: --local: '12Q' is not a size (want e.g. 256M, 1.5G or 25%)\n");
	refused("-l12Q", "prog: error: -l: '12Q' is not a size (want e.g. 256M, 1.5G or 25%)\n");
	refused("--local=9", "prog: error: --local: '9' is out of range (want 10 B to 1 TiB)\n");
	refused("--local=2T", "prog: error: --local: '2T' is out of range (want 10 B to 1 TiB)\n");
	refused("--plain=5%", "prog: error: --plain: '5%' is not a size (want e.g. 256M or 1.5G)\n");
	refused("--plain=1K", "prog: error: --plain: '1K' is out of range (want at least 4 KiB)\n");
	refused("--plain=99999P", "prog: error: --plain: '99999P' is too large\n");
	refused("--delay=5", "prog: error: --delay: '5' is not a time (want e.g. 500us, 10ms or 2.5s)\n");
	refused("--delay=2s", "prog: error: --delay: '2s' is out of range (want 0 to 1s)\n");
	refused("--threads=65", "prog: error: --threads: '65' is out of range (want 1 to 64)\n");
	refused("--threads=x", "prog: error: --threads: 'x' is not a number (want e.g. 16)\n");
	refused("--mode=magic", "prog: error: --mode: 'magic' is none of thread, signal\n");
	refused("--verbose=maybe", "prog: error: --verbose: 'maybe' is neither yes nor no\n");
	refused("--name", "prog: error: --name: wants a value (NAME)\n");
	refused("-t", "prog: error: -t: wants a value (VALUE)\n");
}

static void test_parse_when_option_is_unknown_then_nearest_is_named(void **unused)
{
	refused("--locla=5G", "prog: error: unknown option '--locla' (did you mean --local?)\n");
	refused("--thread", "prog: error: unknown option '--thread' (did you mean --threads?)\n");
	refused("--appl", "prog: error: unknown option '--appl' (did you mean --appliance?)\n");
	refused("--zzzzzz", "prog: error: unknown option '--zzzzzz' (prog --help lists them)\n");
	refused("-vz", "prog: error: unknown option '-z' (prog --help lists them)\n");
	refused("--=x", "prog: error: unknown option '--' (prog --help lists them)\n");
}

static void test_parse_when_list_is_full_then_refused(void **unused)
{
	char *words[2 + XM_OPT_LIST_MAX + 1] = { "prog" };
	int first, i;

	for (i = 1; i <= XM_OPT_LIST_MAX + 1; i++)
		words[i] = "-ax";
	assert_int_equal(parse_words(words, &first), -EINVAL);
	assert_int_equal(v.list.n, XM_OPT_LIST_MAX);
}

static void test_parse_when_help_then_every_option_is_listed(void **unused)
{
	const struct xm_opt *o;
	char *line, *save = NULL;
	int first;

	assert_int_equal(PARSE(&first, "--help"), 1);
	assert_ptr_equal(strstr(said, "usage: prog [options] -- command\n"), said);
	for (o = opts; o->name; o++)
		assert_non_null(strstr(said, o->name));
	assert_non_null(strstr(said, "-l, --local=SIZE"));
	assert_non_null(strstr(said, "--[no-]verbose"));
	assert_non_null(strstr(said, "--check[=WHAT]"));
	assert_non_null(strstr(said, "prog -v -- true\n"));
	for (line = strtok_r(said, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		assert_true(strlen(line) <= 80);
	assert_int_equal(PARSE(&first, "-h"), 1);
	assert_int_equal(PARSE(&first, "--version"), 1);
	assert_ptr_equal(strstr(said, "prog "), said);
}

/* ---- files ------------------------------------------------------------------------------------------ */

static char file_path[64];

/* Writes the text to a file and parses it; said[] has the file's path replaced by FILE */
static int parse_text(const char *text)
{
	char out_path[] = "/tmp/xm_test_opt.XXXXXX";
	int file, out = mkstemp(out_path), err = dup(2), ret;
	char raw[4096], *at;
	ssize_t n;

	strcpy(file_path, "/tmp/xm_test_opt.XXXXXX");
	file = mkstemp(file_path);
	assert_true(file >= 0 && out >= 0 && err >= 0);
	unlink(out_path);
	assert_int_equal(write(file, text, strlen(text)), strlen(text));
	close(file);
	memset(&v, 0, sizeof(v));
	dup2(out, 2);
	ret = xm_opt_parse_file(&prog, file_path);
	dup2(err, 2);
	close(err);
	unlink(file_path);
	n = pread(out, raw, sizeof(raw) - 1, 0);
	raw[n > 0 ? n : 0] = '\0';
	close(out);
	at = strstr(raw, file_path);
	if (at)
		snprintf(said, sizeof(said), "%.*sFILE%s", (int)(at - raw), raw, at + strlen(file_path));
	else
		strcpy(said, raw);
	return ret;
}

static void test_file_when_wellformed_then_values(void **unused)
{
	assert_int_equal(parse_text("# comment\nlocal = 50%\n  name = indented\nverbose = yes\n"
				    "appliance = shm:/a\nappliance: tcp:h:1 ; inline comment\nmode=signal"),
			 0);
	assert_string_equal(said, "");
	assert_int_equal(v.local, 500);
	assert_string_equal(v.name, "indented");
	assert_true(v.verbose);
	assert_int_equal(v.list.n, 2);
	assert_string_equal(v.list.v[1], "tcp:h:1");
	assert_int_equal(v.mode, 1);
}

static void test_file_when_faulty_then_first_faulty_line_is_named(void **unused)
{
	char text[600];

	assert_int_equal(parse_text("\nlocal = 12Q\nnme = x\n"), -EINVAL);
	assert_string_equal(said, "prog: error: FILE:2: local: '12Q' is not a size (want e.g. 256M, 1.5G or 25%)\n");
	assert_int_equal(parse_text("threads = 4\n\nnme = x\n"), -EINVAL);
	assert_string_equal(said, "prog: error: FILE:3: unknown key 'nme' (did you mean name?)\n");
	assert_int_equal(parse_text("check = x\n"), -EINVAL);
	assert_string_equal(said, "prog: error: FILE:1: 'check' is for the command line only\n");
	assert_int_equal(parse_text("threads = 4\nwhat is this\nlocal = 12Q\n"), -EINVAL);
	assert_string_equal(said, "prog: error: FILE:2: not NAME = VALUE\n");
	assert_int_equal(parse_text("threads = 4\n [section]\nnme = x\n"), -EINVAL);
	assert_string_equal(said, "prog: error: FILE:2: sections are not used here\n");
	assert_int_equal(parse_text("[section]"), -EINVAL);
	assert_int_equal(parse_text("qqqqqqqqqq = 4\n"), -EINVAL);
	assert_string_equal(said, "prog: error: FILE:1: unknown key 'qqqqqqqqqq'\n");
	memset(text, 'x', sizeof(text));
	strcpy(text + sizeof(text) - 1, "");
	memcpy(text, "threads = 4\nname = ", 19);
	assert_int_equal(parse_text(text), -EINVAL);
	assert_non_null(strstr(said, "FILE:2: longer than "));
}

static void test_file_when_missing_then_enoent_and_silent(void **unused)
{
	assert_int_equal(xm_opt_parse_file(&prog, "/nonexistent/xmem.conf"), -ENOENT);
}

static void test_file_when_a_directory_then_error(void **unused)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC), err = dup(2), ret;

	dup2(null, 2);
	ret = xm_opt_parse_file(&prog, "/tmp");
	dup2(err, 2);
	close(err);
	close(null);
	assert_true(ret < 0 && ret != -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse_when_all_forms_then_values),
		cmocka_unit_test(test_parse_when_no_words_or_dashes_then_first_word),
		cmocka_unit_test(test_parse_when_flag_is_negated_then_false),
		cmocka_unit_test(test_parse_when_optional_value_then_only_behind_equals),
		cmocka_unit_test(test_parse_when_value_is_bad_then_one_line_says_so),
		cmocka_unit_test(test_parse_when_option_is_unknown_then_nearest_is_named),
		cmocka_unit_test(test_parse_when_list_is_full_then_refused),
		cmocka_unit_test(test_parse_when_help_then_every_option_is_listed),
		cmocka_unit_test(test_file_when_wellformed_then_values),
		cmocka_unit_test(test_file_when_faulty_then_first_faulty_line_is_named),
		cmocka_unit_test(test_file_when_missing_then_enoent_and_silent),
		cmocka_unit_test(test_file_when_a_directory_then_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
