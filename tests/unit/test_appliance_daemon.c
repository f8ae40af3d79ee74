/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance_daemon.c - the program xmem-appliance: readiness, signals, settings. It is looked for beside
 * the tests, or at $XMEM_APPLIANCE; without it the tests are skipped.
 */
#include "tests/unit/appliance_rig.h"

#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>

static const char *daemon_path(void)
{
	static char path[4096];
	const char *given = getenv("XMEM_APPLIANCE");
	ssize_t n;

	if (given)
		return given;
	n = readlink("/proc/self/exe", path, sizeof(path) - 40);
	if (n < 0)
		return NULL;
	path[n] = 0;
	dirname(dirname(dirname(path))); /* cuts it where it stands */
	strcat(path, "/xmem-appliance");
	return access(path, X_OK) == 0 ? path : NULL;
}

static pid_t start_daemon(char *const extra[], char *line, size_t size, int *err)
{
	char *argv[24] = {
		(char *)daemon_path(), "--memory", "64M", "--slab", "1M", "--ready-fd", "200", NULL
	};
	int ready[2], errors[2];
	int n = 7;
	pid_t pid;
	ssize_t got;

	for (int i = 0; extra[i]; i++)
		argv[n++] = extra[i];
	argv[n] = NULL;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(errors, O_CLOEXEC), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(errors[1], 2);
		dup2(ready[1], 200);
		execv(argv[0], argv);
		_exit(127);
	}
	close(ready[1]);
	close(errors[1]);
	*err = errors[0];
	got = read(ready[0], line, size - 1);
	line[got > 0 ? got : 0] = 0;
	close(ready[0]);
	return pid;
}

static int stop_daemon(pid_t pid, int sig)
{
	int status;

	kill(pid, sig);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void test_daemon_says_where_it_is_and_ends_cleanly(void **unused)
{
	char dir[] = "/tmp/xmem-test-XXXXXX", path[60], uri[80], line[400], *tcp;
	char *extra[] = { "--listen", uri, "--listen", "tcp:0", "--name", "rack3", NULL };
	struct xm_peer_info info;
	struct xm_peer *p;
	struct stat st;
	pid_t pid;
	int err;

	if (!daemon_path())
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a", dir);
	snprintf(uri, sizeof(uri), "shm:%s", path);
	pid = start_daemon(extra, line, sizeof(line), &err);
	assert_memory_equal(line, uri, strlen(uri));
	tcp = strstr(line, " tcp:127.0.0.1:");
	assert_non_null(tcp);
	line[strlen(line) - 1] = 0;
	p = rig_peer(tcp + 1);
	xm_peer_info(p, &info);
	assert_string_equal(info.appliance_name, "rack3");
	assert_int_equal(info.total_bytes, 64ull << 20);
	xm_peer_close(p);
	assert_int_equal(stop_daemon(pid, SIGTERM), 0);
	assert_int_equal(stat(path, &st), -1);
	rmdir(dir);
	close(err);
}

static void test_daemon_reads_settings_again_at_sighup(void **unused)
{
	char path[] = "/tmp/xmem-conf-XXXXXX", line[200];
	char *extra[] = { "--config", path, NULL };
	struct xm_appliance_stat st;
	struct xm_peer *p;
	FILE *f;
	pid_t pid;
	int err, fd;

	if (!daemon_path())
		skip();
	fd = mkstemp(path);
	assert_true(fd >= 0);
	f = fdopen(fd, "w");
	fprintf(f, "listen = tcp:0\nlog-level = warn\nwarm = 1\n");
	fflush(f);
	pid = start_daemon(extra, line, sizeof(line), &err);
	assert_memory_equal(line, "tcp:", 4);
	line[strlen(line) - 1] = 0;
	p = rig_peer(line);
	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	assert_int_equal(st.total_bytes, 64ull << 20);
	kill(pid, SIGHUP); /* nothing changed */
	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	fprintf(f, "no-such-setting = 1\n");
	fflush(f);
	kill(pid, SIGHUP); /* a mistake: the old settings stay, and the daemon too */
	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	xm_peer_close(p);
	assert_int_equal(stop_daemon(pid, SIGINT), 0);
	fclose(f);
	unlink(path);
	close(err);
}

static void test_daemon_explains_wrong_settings(void **unused)
{
	static char *const wrong[][3] = {
		{ "--slab", "3M", NULL },
		{ "--memory", "512K", NULL },
		{ "--memory", "4000T", NULL },
		{ "--numa", "999", NULL },
		{ "--listen", "shm:/no/such/dir/x", NULL },
		{ "--config", "/no/such/file", NULL },
		{ "--huge", "1G", NULL },
		{ "surplus", NULL, NULL },
	};

	if (!daemon_path())
		skip();
	for (unsigned i = 0; i < XM_ARRAY_SIZE(wrong); i++) {
		char line[400], text[1000] = "";
		int err, status;
		pid_t pid = start_daemon(wrong[i], line, sizeof(line), &err);
		ssize_t n = read(err, text, sizeof(text) - 1);

		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(n > 0 && WIFEXITED(status) && WEXITSTATUS(status) > 0 && WEXITSTATUS(status) < 3);
		assert_string_equal(line, "");
		assert_memory_equal(text, "xmem-appliance: ", 16);
		if (!strchr(text, '\n') || strchr(text, '\n')[1])
			fail_msg("not one line: %s", text);
		close(err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_daemon_says_where_it_is_and_ends_cleanly),
		cmocka_unit_test(test_daemon_reads_settings_again_at_sighup),
		cmocka_unit_test(test_daemon_explains_wrong_settings),
	};

	xm_log_init("test_appliance_daemon", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
