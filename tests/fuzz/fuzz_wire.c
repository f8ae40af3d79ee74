/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_wire.c - any bytes into the codec of control messages and of the data path's headers. A message that
 * decodes must encode again, to a message that decodes to the same bytes.
 * With XM_FUZZ_REPLAY: a program that runs the files or directories it is given, or else the seed messages.
 */
#include "wire.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_data_headers(const uint8_t *data, size_t size)
{
	uint8_t bytes[XM_WIRE_REQUEST];
	struct xm_wire_response s;

	if (size < XM_WIRE_RESPONSE)
		return;
	xm_wire_get_response(data, &s);
	xm_wire_put_response(bytes, &s);
	if (memcmp(bytes, data, XM_WIRE_RESPONSE) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct xm_wire_msg m, n;
	static uint8_t once[XM_WIRE_MAX], twice[XM_WIRE_MAX];
	struct xm_wire_header h;
	int len, len2;

	check_data_headers(data, size);
	if (xm_wire_decode_header(data, size, &h) < 0)
		return 0;
	memset(&m, 0, sizeof(m));
	if (xm_wire_decode(data, size, &m) < 0)
		return 0;
	len = xm_wire_encode(&m, once, sizeof(once));
	if (len < (int)XM_WIRE_HEADER)
		abort();
	memset(&n, 0, sizeof(n));
	if (xm_wire_decode(once, (size_t)len, &n) < 0)
		abort();
	len2 = xm_wire_encode(&n, twice, sizeof(twice));
	/* a hello of another version is only known in part, so the rest may be anything */
	if (len2 != len || (m.u.hello.major == XM_WIRE_MAJOR && memcmp(once, twice, (size_t)len) != 0))
		abort();
	return 0;
}

#ifdef XM_FUZZ_REPLAY
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int replay_file(const char *path)
{
	static uint8_t bytes[XM_WIRE_MAX * 2];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, bytes, sizeof(bytes));
	close(fd);
	if (n >= 0)
		LLVMFuzzerTestOneInput(bytes, (size_t)n);
	return n < 0 ? -1 : 1;
}

static int replay(const char *path)
{
	char name[4096];
	struct dirent *e;
	int count = 0;
	DIR *dir = opendir(path);

	if (!dir)
		return replay_file(path);
	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		count += replay_file(name) > 0;
	}
	closedir(dir);
	return count;
}

/* One of each message, whole, then cut at each byte and with each byte changed. dir: also written there. */
static int replay_seeds(const char *dir)
{
	static const uint16_t types[] = { 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 32, 33, 48, 255 };
	static uint8_t bytes[XM_WIRE_MAX], changed[XM_WIRE_MAX];
	static struct xm_wire_msg m;
	int count = 0;

	for (unsigned i = 0; i < 3 * sizeof(types) / sizeof(types[0]); i++) {
		char name[4096];
		int len;

		memset(&m, 0, sizeof(m));
		m.h.type = types[i / 3];
		m.h.flags = i % 3 ? XM_WIRE_REPLY : 0;
		m.h.status = i % 3 == 2 ? -12 : 0;
		if (m.h.type == XM_WIRE_HELLO && !m.h.flags) {
			m.u.hello.magic = XM_WIRE_MAGIC;
			m.u.hello.major = XM_WIRE_MAJOR;
			m.u.hello.minor = XM_WIRE_MINOR;
			m.u.hello.link = 0x1122334455667788ull;
		} else if (m.h.type == XM_WIRE_REGION_CREATE && !m.h.flags) {
			m.u.create.type = XM_WIRE_REGION_SHARED;
			m.u.create.rules[0] = (struct xm_wire_rule){ XM_WIRE_RULE_USER, { 1, 2, 3, 4 }, 3 };
		} else if (m.h.type == XM_WIRE_REGION_LIST && i % 3 == 1) {
			m.u.list.count = 2;
		} else if (m.h.type == XM_WIRE_SLAB_KEYS && i % 3 == 1) {
			m.u.keys.count = 3;
		} else if (m.h.type == XM_WIRE_STAT && i % 3 == 1) {
			m.u.stat_reply.count = 2;
		}
		len = xm_wire_encode(&m, bytes, sizeof(bytes));
		if (len < 0)
			abort();
		for (int at = 0; at <= len; at++) {
			LLVMFuzzerTestOneInput(bytes, (size_t)at);
			memcpy(changed, bytes, (size_t)len);
			changed[at % len] ^= (uint8_t)(1 + at * 7);
			LLVMFuzzerTestOneInput(changed, (size_t)len);
			count += 2;
		}
		if (!dir)
			continue;
		snprintf(name, sizeof(name), "%s/message-%03u-%u", dir, types[i / 3], i % 3);
		int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

		if (fd < 0 || write(fd, bytes, (size_t)len) != len)
			return -1;
		close(fd);
	}
	return count;
}

int main(int argc, char **argv)
{
	int count = 0;

	if (argc == 3 && strcmp(argv[1], "--write-corpus") == 0)
		return replay_seeds(argv[2]) < 0;
	if (argc == 1)
		count = replay_seeds(NULL);
	for (int i = 1; i < argc; i++) {
		int n = replay(argv[i]);

		if (n < 0) {
			fprintf(stderr, "%s: cannot be read\n", argv[i]);
			return 1;
		}
		count += n;
	}
	printf("%d inputs\n", count);
	return count == 0;
}
#endif
