/* SPDX-License-Identifier: Apache-2.0 */
/*
 * units.c - sizes, times and percentages: text to number and back.
 * Pure functions over their arguments: any thread, no lock, no allocation, no locale and no
 * floating point (a size of up to 2^64 bytes does not fit a double). How much memory the machine
 * has: machine.c.
 */
#include "units.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "log.h"
#include "util.h"

typedef unsigned __int128 u128;

#define FRACTION_DIGITS_MAX 18 /* 10^18 * 2^50 (P) fits 128 bits; further digits cannot matter */

struct decimal {
	uint64_t whole;
	uint64_t fraction; /* of scale */
	uint64_t scale;	   /* 10^digits read */
	bool has_fraction;
	bool overflow;
	const char *rest;
};

/* "12", "1.5"; -EINVAL where no digit stands on either side of the point */
static int parse_decimal(const char *text, struct decimal *d)
{
	const char *p = text;
	int digits = 0;

	*d = (struct decimal){ .scale = 1 };
	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(d->whole, 10, &d->whole) ||
		    __builtin_add_overflow(d->whole, (uint64_t)(*p - '0'), &d->whole))
			d->overflow = true;
	}
	if (*p == '.') {
		d->has_fraction = true;
		p++;
		if (*p < '0' || *p > '9')
			return -EINVAL;
		for (; *p >= '0' && *p <= '9'; p++) {
			if (digits++ >= FRACTION_DIGITS_MAX)
				continue;
			d->fraction = d->fraction * 10 + (uint64_t)(*p - '0');
			d->scale *= 10;
		}
	}
	d->rest = p;
	return 0;
}

/* d * num / den, rounded down */
static int scale_decimal(const struct decimal *d, uint64_t num, uint64_t den, uint64_t *out)
{
	u128 v;

	if (d->overflow)
		return -ERANGE;
	v = (u128)d->whole * num + (u128)d->fraction * num / d->scale;
	v /= den;
	if (v > UINT64_MAX)
		return -ERANGE;
	*out = (uint64_t)v;
	return 0;
}

/* "", "B", "K", "KB", "KiB" ... -> multiplier; 0: unknown */
static uint64_t size_multiplier(const char *suffix)
{
	static const char letters[] = "KMGTP";
	const char *at;
	char c = *suffix;

	if (c == '\0' || strcmp(suffix, "B") == 0)
		return 1;
	if (c == 'k')
		c = 'K';
	at = strchr(letters, c);
	if (!at || (suffix[1] && strcmp(suffix + 1, "B") && strcmp(suffix + 1, "iB")))
		return 0;
	return 1ull << (10 * (at - letters + 1));
}

int xm_parse_size(const char *text, uint64_t percent_of, uint64_t *out_bytes)
{
	struct decimal d;
	uint64_t mult;
	int ret;

	ret = parse_decimal(text, &d);
	if (ret)
		return ret;
	if (strcmp(d.rest, "%") == 0) {
		if (percent_of == 0)
			return -EINVAL;
		return scale_decimal(&d, percent_of, 100, out_bytes);
	}
	mult = size_multiplier(d.rest);
	if (mult == 0 || (mult == 1 && d.has_fraction))
		return -EINVAL;
	return scale_decimal(&d, mult, 1, out_bytes);
}

int xm_parse_time(const char *text, uint64_t *out_ns)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "ns", 1 },	     { "us", 1000 },	      { "ms", 1000000 },
		{ "s", 1000000000 }, { "m", 60000000000ull }, { "h", 3600000000000ull },
	};
	struct decimal d;
	unsigned i;
	int ret;

	ret = parse_decimal(text, &d);
	if (ret)
		return ret;
	if (*d.rest == '\0') {
		if (d.whole || d.has_fraction || d.overflow)
			return -EINVAL;
		*out_ns = 0;
		return 0;
	}
	for (i = 0; i < XM_ARRAY_SIZE(units); i++)
		if (strcmp(d.rest, units[i].name) == 0)
			return scale_decimal(&d, units[i].ns, 1, out_ns);
	return -EINVAL;
}

int xm_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	struct decimal d;
	int ret;

	ret = parse_decimal(text, &d);
	if (ret)
		return ret;
	if (*d.rest || d.has_fraction)
		return -EINVAL;
	if (d.overflow || d.whole < min || d.whole > max)
		return -ERANGE;
	*out = d.whole;
	return 0;
}

/* value / unit as thousandths, rounded to `digits` decimals (0..3) */
static uint64_t rounded_milli(uint64_t value, uint64_t unit, int digits)
{
	static const unsigned step[] = { 1000, 100, 10, 1 };
	u128 v = ((u128)value * 1000 * 2 / step[digits] + unit) / (2 * (u128)unit);

	return (uint64_t)v * step[digits];
}

char *xm_format_size(uint64_t bytes, char *buf, size_t len)
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned u = 0;
	uint64_t milli;
	int digits, frac;

	while (u + 1 < XM_ARRAY_SIZE(names) && bytes >> (10 * (u + 1)))
		u++;
	for (;;) {
		uint64_t unit = 1ull << (10 * u);
		uint64_t whole = bytes >> (10 * u);

		digits = u == 0 ? 0 : whole >= 1000 ? 0 : whole >= 100 ? 1 : whole >= 10 ? 2 : 3;
		milli = rounded_milli(bytes, unit, digits);
		/* 1023.9 KiB rounds to 1024: write 1 MiB */
		if (milli < 1024000 || u + 1 == XM_ARRAY_SIZE(names))
			break;
		u++;
	}
	frac = (int)(milli % 1000);
	if (frac == 0) {
		xm_snprintf(buf, len, "%llu %s", (unsigned long long)(milli / 1000), names[u]);
		return buf;
	}
	digits = 3;
	while (frac % 10 == 0) {
		frac /= 10;
		digits--;
	}
	xm_snprintf(buf, len, "%llu.%0*d %s", (unsigned long long)(milli / 1000), digits, frac, names[u]);
	return buf;
}

char *xm_format_time(uint64_t ns, char *buf, size_t len)
{
	uint64_t milli;

	if (ns < 1000) {
		xm_snprintf(buf, len, "%llu ns", (unsigned long long)ns);
		return buf;
	}
	/* the limits stand half a last digit lower, so that "1000.0 us" is written "1.0 ms" */
	if (ns < 999950) {
		milli = rounded_milli(ns, 1000, 1);
		xm_snprintf(buf, len, "%llu.%llu us", (unsigned long long)(milli / 1000),
			    (unsigned long long)(milli % 1000 / 100));
	} else if (ns < 999950000) {
		milli = rounded_milli(ns, 1000000, 1);
		xm_snprintf(buf, len, "%llu.%llu ms", (unsigned long long)(milli / 1000),
			    (unsigned long long)(milli % 1000 / 100));
	} else {
		milli = rounded_milli(ns, 1000000000, 2);
		xm_snprintf(buf, len, "%llu.%02llu s", (unsigned long long)(milli / 1000),
			    (unsigned long long)(milli % 1000 / 10));
	}
	return buf;
}
