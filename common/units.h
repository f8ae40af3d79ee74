/* SPDX-License-Identifier: Apache-2.0 */
/* units.h - sizes, times and percentages as people write them. Pure; no allocation. */
#ifndef XM_UNITS_H
#define XM_UNITS_H

#include <stddef.h>
#include <stdint.h>

/* "4096", "256M", "1.5G", "64KiB", "25%" (of percent_of bytes; 0: percent not allowed). Suffixes k K M G T P,
 * optionally followed by B or iB, all powers of 1024. 0; -EINVAL malformed/negative/trailing text; -ERANGE
 * overflow. *out written only on success. */
int xm_parse_size(const char *text, uint64_t percent_of, uint64_t *out_bytes);
/* "500us", "10ms", "2.5s", "1m", "1h", "0"; a bare non-zero number is -EINVAL (a unit is wanted) */
int xm_parse_time(const char *text, uint64_t *out_ns);
int xm_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out);
/* "1.5 GiB", "512 B": at most 4 significant digits; buf >= 24 bytes; returns buf */
char *xm_format_size(uint64_t bytes, char *buf, size_t len);
/* "3.2 us", "1.50 s" */
char *xm_format_time(uint64_t ns, char *buf, size_t len);
/* memory of this machine, or the memory cgroup's limit (v1 or v2, the tightest ancestor) where lower */
uint64_t xm_machine_memory_bytes(void);
/* that limit alone (UINT64_MAX: none); prefix stands before /proc and the mount points ("" but in tests) */
uint64_t xm_cgroup_limit_bytes(const char *prefix);

#endif
