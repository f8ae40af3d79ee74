/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_sysfs.c - reads small files of /sys/class/infiniband. */
#include "link/rdma_sysfs.h"

#include "fdgate.h"
#include "log.h"
#include "units.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

int xm_rdma_file(char *buf, size_t size, const char *fmt, ...)
{
	char path[256] = "/sys/class/infiniband/";
	size_t at = strlen(path);
	va_list ap;
	int n;

	va_start(ap, fmt);
	xm_vsnprintf(path + at, sizeof(path) - at, fmt, ap);
	va_end(ap);
	n = xm_fd_read_file(path, buf, size);
	buf[strcspn(buf, "\n")] = 0;
	return n < 0 ? n : 0;
}

bool xm_rdma_port_exists(const char *device, int port)
{
	char state[32];

	return xm_rdma_file(state, sizeof(state), "%s/ports/%d/state", device, port) == 0;
}

bool xm_rdma_port_active(const char *device, int port, char *state, size_t size, char *netdev)
{
	char line[64];

	xm_rdma_file(line, sizeof(line), "%s/ports/%d/state", device, port); /* "4: ACTIVE" */
	xm_snprintf(state, size, "%s", line[0] ? line + strspn(line, "0123456789: ") : "gone");
	xm_rdma_file(netdev, 32, "%s/ports/%d/gid_attrs/ndevs/0", device, port);
	return line[0] == '4';
}

int xm_rdma_gid(const char *device, int port, int index, struct xm_rdma_gid *out)
{
	static const uint8_t none[sizeof(out->raw)];
	char line[64];
	int ret = xm_rdma_file(line, sizeof(line), "%s/ports/%d/gids/%d", device, port, index);

	if (ret < 0)
		return ret;
	if (inet_pton(AF_INET6, line, out->raw) != 1 || memcmp(out->raw, none, sizeof(none)) == 0)
		return -EINVAL;
	xm_rdma_file(line, sizeof(line), "%s/ports/%d/gid_attrs/types/%d", device, port, index);
	out->roce_v2 = strcmp(line, "RoCE v2") == 0;
	xm_rdma_file(out->netdev, sizeof(out->netdev), "%s/ports/%d/gid_attrs/ndevs/%d", device, port, index);
	return 0;
}

int xm_rdma_node(const char *device)
{
	char line[32];
	uint64_t node;

	xm_rdma_file(line, sizeof(line), "%s/device/numa_node", device);
	return xm_parse_u64(line, 0, 1023, &node) == 0 ? (int)node : -1;
}

int64_t xm_rdma_retries(const char *device, int port)
{
	/* mlx5: acknowledgements that did not come, gaps that the other side complained of or that answers showed, a
	 * receiver that was not ready; rxe: all of these but the last, and that */
	static const char *const names[] = { "local_ack_timeout_err", "packet_seq_err",	     "implied_nak_seq_err",
					     "rnr_nak_retry_err",     "completer_retry_err", "rcvd_rnr_err" };
	uint64_t sum = 0, n;
	bool any = false;
	char line[32];

	for (size_t i = 0; i < XM_ARRAY_SIZE(names); i++) {
		if (xm_rdma_file(line, sizeof(line), "%s/ports/%d/hw_counters/%s", device, port, names[i]) < 0 ||
		    xm_parse_u64(line, 0, INT64_MAX, &n) < 0)
			continue;
		any = true;
		sum += n;
	}
	return any ? (int64_t)sum : -1;
}
