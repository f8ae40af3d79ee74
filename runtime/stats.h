/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - statistics as text: a block for people, JSON for programs. Reads live shared memory without locks:
 * figures of one print may be some microseconds apart.
 */
#ifndef XM_STATS_H
#define XM_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/family.h"

/* Where text goes: a descriptor, buffered here, written when full and by xm_out_flush. On the caller's stack; one
 * thread. */
struct xm_out {
	int fd;
	int err;     /* first -errno of write */
	size_t used; /* bytes in room */
	char room[2048];
};

void xm_out_to_fd(struct xm_out *o, int fd);
/* One piece of at most 1023 bytes (longer ones are cut). No malloc, no stdio. */
void xm_out_print(struct xm_out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void xm_out_json_string(struct xm_out *o, const char *text);
/* 0, or the first -errno */
int xm_out_flush(struct xm_out *o);

/* What became of the command, for the head of the block. */
struct xm_stats_run {
	const char *command; /* "redis-server"; NULL: not known */
	uint64_t wall_ns;
	int wait_status;	/* as of waitpid */
	uint32_t still_running; /* processes of the family that go on */
};

/* Sum over the processes of the family, ended ones included; external_pages_max: of the whole family. */
struct xm_stats_sum {
	struct xm_proc_stats total;
	uint64_t processes, live;
	uint64_t external_pages_max;
};

/* The parts of faults, in the order in which they come. */
enum xm_part {
	XM_PART_DELIVERY,
	XM_PART_WAIT,
	XM_PART_FETCH,
	XM_PART_INSTALL,
	XM_PART_REST,
	XM_PART_RETURN,
	XM_PARTS,
};

/* XM_PARTS histograms. */
const struct xm_hist *xm_stats_parts(const struct xm_proc_stats *s);
/* All faults' time in one part. Counted: wait, fetch, rest. Estimated: install, of which one call of XM_INSTALL_SAMPLE was
 * timed; delivery and return, from the median of their samples (few, so that one long one would be the mean) and the
 * number of faults, the count of XM_PART_REST. 0: no sample. */
uint64_t xm_stats_part_ns(const struct xm_hist part[XM_PARTS], enum xm_part i);

/* Fills *sum (56 KiB: not for small stacks). */
void xm_stats_sum(struct xm_family *f, struct xm_stats_sum *sum);
/* External share of the private anonymous memory, in 1/1000; -1: nothing was measured. */
int xm_stats_coverage_permille(const struct xm_proc_stats *s);
/* Resident + remote pages of all processes now. */
uint64_t xm_stats_external_pages(struct xm_family *f);

/* The readable block, about 30 lines of at most 80 columns. run may be NULL. */
void xm_stats_text(struct xm_out *o, struct xm_family *f, const struct xm_stats_run *run);
/* One JSON object and a newline: "run" (when run is not NULL), "config", "family" with totals, "appliances",
 * and "processes", one object each. */
void xm_stats_json(struct xm_out *o, struct xm_family *f, const struct xm_stats_run *run);
/* One JSON object of one counter block, histograms as count, mean, p50, p99, p999 and max; no newline. */
void xm_stats_block_json(struct xm_out *o, const struct xm_proc_stats *s);

#endif
