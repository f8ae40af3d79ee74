/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zipf.h - numbers 1..n with probability proportional to 1 / k^s, exact, without a table: rejection-inversion after
 * W. Hoermann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions",
 * ACM TOMACS 6(3), 1996, for 0 < s, s != 1.
 *
 * A real x is drawn from the hat, the density x^-s on (1/2, n + 1/2), by inverting its integral; k is x rounded. x is kept
 * where it lies within the part of the hat around k that has the area k^-s: mostly, and without computing that when x is
 * at most `squeeze` below k.
 */
#ifndef XM_BENCH_ZIPF_H
#define XM_BENCH_ZIPF_H

#include <math.h>
#include <stdint.h>

struct zipf {
	double n, s;
	double low, high; /* of the hat's integral: what is inverted is uniform between them */
	double squeeze;
};

static inline double zipf_integral(const struct zipf *z, double x)
{
	return pow(x, 1 - z->s) / (1 - z->s);
}

static inline double zipf_inverse(const struct zipf *z, double u)
{
	return pow(u * (1 - z->s), 1 / (1 - z->s));
}

static inline void zipf_init(struct zipf *z, uint64_t n, double s)
{
	z->n = (double)n;
	z->s = s;
	z->low = zipf_integral(z, 1.5) - 1;
	z->high = zipf_integral(z, z->n + 0.5);
	z->squeeze = 2 - zipf_inverse(z, zipf_integral(z, 2.5) - pow(2, -s));
}

/* state: of the caller's generator, which draw advances */
static inline uint64_t zipf_draw(const struct zipf *z, uint64_t (*draw)(uint64_t *), uint64_t *state)
{
	for (;;) {
		double uniform = (double)(draw(state) >> 11) * 0x1p-53;
		double u = z->high + uniform * (z->low - z->high);
		double x = zipf_inverse(z, u), k = floor(x + 0.5);

		k = fmin(fmax(k, 1), z->n);
		if (k - x <= z->squeeze || u >= zipf_integral(z, k + 0.5) - pow(k, -z->s))
			return (uint64_t)k;
	}
}

#endif
