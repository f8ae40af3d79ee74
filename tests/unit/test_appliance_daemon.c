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

static rlim_t fd_limit; /* of the next daemon; 0: as it is */

static pid_t start_daemon(char *const extra[], char *line, size_t size, int *err)
{
	char *argv[24] = { (char *)daemon_path(), "--slab", "1M", "--ready-fd", "200", NULL };
	int ready[2], errors[2];
	int n = 5;
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
		if (fd_limit)
			setrlimit(RLIMIT_NOFILE, &(struct rlimit){ fd_limit, fd_limit });
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

/* Reads its log until a line has the text. */
static void expect(FILE *log, const char *text)
{
	char line[500];

	while (fgets(line, sizeof(line), log))
		if (strstr(line, text))
			return;
	fail_msg("the daemon never said '%s'", text);
}

static void configure(const char *path, const char *settings)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fputs(settings, f);
	assert_int_equal(fclose(f), 0);
}

static void test_daemon_says_where_it_is_and_ends_cleanly(void **unused)
{
	char dir[] = "/tmp/xmem-test-XXXXXX", path[60], uri[80], line[400], *tcp;
	char *extra[] = { "--memory", "64M", "--listen", uri, "--listen", "tcp:0", "--name", "rack3", NULL };
	struct xm_region_info region;
	struct xm_peer_info info;
	struct xm_peer *p;
	FILE *log;
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
	assert_int_equal(info.lease_ns, 10000000000ull);
	assert_int_equal(xm_peer_region_create(p, 1 << 20, NULL, 0, &region), 0);
	xm_peer_close(p);
	log = fdopen(err, "r");
	expect(log, "lending 64 MiB in slabs of 1 MiB at ");
	expect(log, "ended: 1 region, 1 slab freed");
	assert_int_equal(stop_daemon(pid, SIGTERM), 0);
	assert_int_equal(stat(path, &st), -1);
	rmdir(dir);
	fclose(log);
}

static void test_daemon_reads_settings_again_at_sighup(void **unused)
{
	char path[] = "/tmp/xmem-conf-XXXXXX", line[200];
	char *extra[] = { "--memory", "64M", "--config", path, NULL };
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

static void test_daemon_keeps_at_sighup_what_cannot_change_and_says_so(void **unused)
{
	char path[] = "/tmp/xmem-conf-XXXXXX", line[200];
	char *extra[] = { "--config", path, NULL };
	struct xm_appliance_stat st;
	struct xm_peer *p;
	FILE *log;
	pid_t pid;
	int err;

	if (!daemon_path())
		skip();
	close(mkstemp(path));
	configure(path, "listen = tcp:0\nmemory = 8M\n");
	fd_limit = 300;
	pid = start_daemon(extra, line, sizeof(line), &err);
	fd_limit = 0;
	line[strcspn(line, "\n")] = 0;
	p = rig_peer(line);
	log = fdopen(err, "r");
	configure(path, "listen = tcp:0\nmemory = 100M\n"); /* more slabs than descriptors */
	kill(pid, SIGHUP);
	expect(log, "unchanged");
	expect(log, "lending 8 MiB");
	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	assert_int_equal(st.total_bytes, 8ull << 20);
	configure(path, "listen = shm:@elsewhere\nmemory = 16M\nwarm = 3\nname = other\n");
	kill(pid, SIGHUP);
	expect(log, "listen, warm, name: changes need a restart");
	expect(log, "lending 16 MiB");
	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	assert_int_equal(st.total_bytes, 16ull << 20);
	configure(path, "listen = bogus\nmemory = 20M\n");
	kill(pid, SIGHUP);
	expect(log, "--listen: 'bogus' is not an address");
	expect(log, "the old ones stay");
	assert_int_equal(xm_peer_appliance_stat(p, &st), 0);
	assert_int_equal(st.total_bytes, 16ull << 20);
	xm_peer_close(p);
	assert_int_equal(stop_daemon(pid, SIGINT), 0);
	unlink(path);
	fclose(log);
}

static void test_daemon_explains_wrong_settings(void **unused)
{
	static const struct {
		char *args[5];
		int status;
		const char *text;
	} wrong[] = {
		{ { "--slab", "3M" }, 2, "power of two" },
		{ { "--memory", "512K" }, 2, "less than one slab" },
		{ { "--memory", "4000T" }, 2, "more than this machine" },
		{ { "--lease", "10us" }, 2, "--lease: '10us' is out of range (want 1ms to 24h)" },
		{ { "--numa", "999" }, 2, "--numa" },
		{ { "--listen", "foo" },
		  2,
		  "--listen: 'foo' is not an address (want shm:PATH, shm:@NAME, tcp:PORT, tcp:HOST:PORT or verbs:HOST:PORT)" },
		{ { "--listen", "tcp:x" },
		  2,
		  "--listen: 'tcp:x' is not an address (the port is not a number)" },
		{ { "--listen", "shm:/no/such/dir/x", "--memory", "8M" }, 1, "directory" },
		{ { "--config", "/no/such/file" }, 2, "no such file" },
		{ { "--huge", "1G" }, 2, "larger than a slab" },
		{ { "surplus" }, 2, "no such option" },
	};

	if (!daemon_path())
		skip();
	for (unsigned i = 0; i < XM_ARRAY_SIZE(wrong); i++) {
		char line[400], text[1000] = "";
		int err, status;
		pid_t pid = start_daemon(wrong[i].args, line, sizeof(line), &err);
		ssize_t n = read(err, text, sizeof(text) - 1);

		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(n > 0 && WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), wrong[i].status);
		if (!strstr(text, wrong[i].text))
			fail_msg("not '%s': %s", wrong[i].text, text);
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
		cmocka_unit_test(test_daemon_keeps_at_sighup_what_cannot_change_and_says_so),
		cmocka_unit_test(test_daemon_explains_wrong_settings),
	};

	xm_log_init("test_appliance_daemon", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
