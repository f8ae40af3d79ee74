/* SPDX-License-Identifier: Apache-2.0 */
/* test_log.c - the formatter against the C library's, and the lines that reach the descriptor. */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "traces.h"

/* formats with both and compares text and length */
#define SAME(...)                                                             \
	do {                                                                  \
		char ours_[256], libc_[256];                                  \
		int n_ours_ = xm_snprintf(ours_, sizeof(ours_), __VA_ARGS__); \
		int n_libc_ = snprintf(libc_, sizeof(libc_), __VA_ARGS__);    \
		assert_string_equal(ours_, libc_);                            \
		assert_int_equal(n_ours_, n_libc_);                           \
	} while (0)

static void test_snprintf_when_integers_then_as_libc(void **unused)
{
	SAME("%d %i %u", 0, -17, 4000000000u);
	SAME("%d %d", INT_MIN, INT_MAX);
	SAME("%ld %lld %lu", LONG_MIN, LLONG_MAX, ULONG_MAX);
	SAME("%zd %zu", (ssize_t)-5, (size_t)7);
	SAME("%x %X %#x %lx %o", 0xbeefu, 0xbeefu, 0xbeefu, 0xfedcba9876543210ul, 8u);
	SAME("%hhd %hd %hhu", 300, 70000, 300);
	SAME("%" PRIu64 " %" PRId64 " %jd", UINT64_MAX, INT64_MIN, (intmax_t)-1);
}

static void test_snprintf_when_widths_then_as_libc(void **unused)
{
	SAME("[%5d][%-5d][%05d][%+d][% d]", 42, 42, 42, 42, 42);
	SAME("[%05d][%+05d][%.3d][%8.3d][%-8.3d]", -42, 42, 7, 7, 7);
	SAME("[%*d][%-*d][%*d]", 6, 1, 6, 2, -6, 3);
	SAME("[%#10x][%-#10x][%#010x]", 255, 255, 255);
	SAME("[%10s][%-10s][%.2s][%5.1s]", "abc", "abc", "abc", "abc");
	SAME("[%.*s][%c][%3c][%-3c][%%]", 2, "xyz", 'q', 'r', 's');
	SAME("[%.0d]", 0);
}

static void test_snprintf_when_random_then_as_libc(void **unused)
{
	static const char *const formats[] = { "%llu",	   "%lld",    "%llx",  "%20llu",
					       "%-20lld|", "%020llx", "%.5llu" };
	uint64_t seed = test_seed("log");
	int i;

	for (i = 0; i < 20000; i++) {
		uint64_t v = test_random(&seed) >> (test_random(&seed) % 64);
		const char *fmt = formats[test_random(&seed) % 7];
		char ours[64], libc[64];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		xm_snprintf(ours, sizeof(ours), fmt, v);
		snprintf(libc, sizeof(libc), fmt, v);
#pragma GCC diagnostic pop
		assert_string_equal(ours, libc);
	}
}

static void test_snprintf_when_too_small_then_cut_and_terminated(void **unused)
{
	char buf[4] = "zzz";

	assert_int_equal(xm_snprintf(buf, sizeof(buf), "%d", 123456), 6);
	assert_string_equal(buf, "123");
	assert_int_equal(xm_snprintf(buf, 1, "abc"), 3);
	assert_string_equal(buf, "");
	assert_int_equal(xm_snprintf(NULL, 0, "abc"), 3);
}

static void test_snprintf_when_null_or_pointer_then_readable(void **unused)
{
	const char *volatile null = NULL;
	char buf[32];

	xm_snprintf(buf, sizeof(buf), "%s", null);
	assert_string_equal(buf, "(null)");
	xm_snprintf(buf, sizeof(buf), "%p", (void *)(uintptr_t)0xabc0);
	assert_string_equal(buf, "0xabc0");
}

static void test_snprintf_when_unknown_conversion_then_rest_is_literal(void **unused)
{
	char buf[64];

	xm_snprintf(buf, sizeof(buf), "%d and %f and %d", 1, 2.0, 3);
	assert_string_equal(buf, "1 and %f and %d");
}

static void test_strerror_when_any_sign_then_text(void **unused)
{
	assert_string_equal(xm_strerror(ENOMEM), "Cannot allocate memory");
	assert_string_equal(xm_strerror(-ENOMEM), "Cannot allocate memory");
	assert_string_equal(xm_strerror(99999), "unknown error");
	assert_non_null(xm_strerror(INT_MIN));
}

/* ---- lines ------------------------------------------------------------------------------------------ */

static int pipe_fd[2];
static char got[8192];

static int open_pipe(void **unused)
{
	if (pipe2(pipe_fd, O_NONBLOCK | O_CLOEXEC))
		return -1;
	xm_log_set_fd(pipe_fd[1]);
	xm_log_init("prog", XM_LOG_INFO);
	return 0;
}

static int close_pipe(void **unused)
{
	xm_log_set_fd(2);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	return 0;
}

static const char *take(void)
{
	ssize_t n = read(pipe_fd[0], got, sizeof(got) - 1);

	got[n > 0 ? n : 0] = '\0';
	return got;
}

static void test_log_when_levels_then_marked_lines(void **unused)
{
	xm_err("a %d", 1);
	assert_string_equal(take(), "prog: error: a 1\n");
	xm_warn("b");
	assert_string_equal(take(), "prog: warning: b\n");
	xm_info("c");
	assert_string_equal(take(), "prog: c\n");
	xm_debug("d");
	assert_string_equal(take(), "");
	xm_log_set_level(XM_LOG_DEBUG);
	xm_debug("d");
	assert_string_equal(take(), "prog: debug: d\n");
}

static void test_log_when_line_is_long_then_cut_with_dots(void **unused)
{
	char text[5000];
	size_t len;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	xm_err("%s", text);
	len = strlen(take());
	assert_true(len > 500 && len <= 1024);
	assert_string_equal(got + len - 5, "x...\n");
}

static void test_log_when_text_has_control_characters_then_one_line(void **unused)
{
	xm_err("a\nprog: error: forged\x1b[31m%s", "\n\n");
	assert_string_equal(take(), "prog: error: a prog: error: forged?[31m\n");
}

static void test_log_when_called_then_errno_is_kept(void **unused)
{
	xm_log_set_fd(-1);
	errno = ENOSPC;
	xm_err("to nowhere");
	assert_int_equal(errno, ENOSPC);
	xm_log_set_fd(pipe_fd[1]);
}

static void test_assert_when_false_then_line_and_abort(void **unused)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		signal(SIGABRT, SIG_DFL);
		xm_assert(2 + 2 == 5);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(take(), "prog: bug: "));
	assert_non_null(strstr(got, "2 + 2 == 5\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_snprintf_when_integers_then_as_libc),
		cmocka_unit_test(test_snprintf_when_widths_then_as_libc),
		cmocka_unit_test(test_snprintf_when_random_then_as_libc),
		cmocka_unit_test(test_snprintf_when_too_small_then_cut_and_terminated),
		cmocka_unit_test(test_snprintf_when_null_or_pointer_then_readable),
		cmocka_unit_test(test_snprintf_when_unknown_conversion_then_rest_is_literal),
		cmocka_unit_test(test_strerror_when_any_sign_then_text),
		cmocka_unit_test_setup_teardown(test_log_when_levels_then_marked_lines, open_pipe,
						close_pipe),
		cmocka_unit_test_setup_teardown(test_log_when_line_is_long_then_cut_with_dots, open_pipe,
						close_pipe),
		cmocka_unit_test_setup_teardown(test_log_when_text_has_control_characters_then_one_line,
						open_pipe, close_pipe),
		cmocka_unit_test_setup_teardown(test_log_when_called_then_errno_is_kept, open_pipe,
						close_pipe),
		cmocka_unit_test_setup_teardown(test_assert_when_false_then_line_and_abort, open_pipe,
						close_pipe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
