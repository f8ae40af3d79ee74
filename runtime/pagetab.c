/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagetab.c - transitions of page words. Any thread; lock-free. Legality is verified in checked builds.
 */
#include "runtime/pagetab.h"

#include "log.h"

#define B(s) (1u << (s))
#define KEPT (XM_PG_HOLD_MASK | XM_PG_PINNED | XM_PG_QUEUED) /* not the page owner's to decide */

/* which states may follow a state */
static const uint8_t next_states[8] = {
	[XM_PG_EMPTY] = B(XM_PG_EMPTY) | B(XM_PG_FETCHING) | B(XM_PG_TAKEN) | B(XM_PG_REMOTE) | B(XM_PG_RESIDENT),
	[XM_PG_FREED] = B(XM_PG_FREED) | B(XM_PG_EMPTY) | B(XM_PG_TAKEN) | B(XM_PG_FETCHING),
	[XM_PG_REMOTE] = B(XM_PG_REMOTE) | B(XM_PG_FETCHING) | B(XM_PG_TAKEN) | B(XM_PG_LOST),
	[XM_PG_RESIDENT] = B(XM_PG_RESIDENT) | B(XM_PG_EVICTING) | B(XM_PG_FETCHING) | B(XM_PG_TAKEN),
	[XM_PG_FETCHING] = B(XM_PG_FETCHING) | B(XM_PG_RESIDENT) | B(XM_PG_EMPTY) | B(XM_PG_REMOTE) |
			   B(XM_PG_LOST) | B(XM_PG_FREED),
	[XM_PG_EVICTING] = B(XM_PG_EVICTING) | B(XM_PG_REMOTE) | B(XM_PG_EMPTY) | B(XM_PG_RESIDENT),
	[XM_PG_LOST] = B(XM_PG_LOST) | B(XM_PG_TAKEN) | B(XM_PG_FETCHING),
	[XM_PG_TAKEN] = 0xff,
};

bool xm_pg_legal(xm_pte from, xm_pte to)
{
	if (!(next_states[from & XM_PG_STATE_MASK] & B(to & XM_PG_STATE_MASK)))
		return false;
	if (xm_pg_state(to) == XM_PG_REMOTE && !(to & XM_PG_HAS_SLOT))
		return false; /* a remote page without a place is a lost page */
	return true;
}

bool xm_pg_cas(xm_pte *p, xm_pte *seen, xm_pte to)
{
	xm_check(xm_pg_legal(*seen, to));
	return __atomic_compare_exchange_n(p, seen, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

bool xm_pg_finish(xm_pte *p, xm_pte to)
{
	xm_pte seen = xm_pg_load(p);
	xm_pte keep;

	do {
		xm_check(xm_pg_busy(seen));
		xm_check(xm_pg_legal(seen, to));
		keep = seen & KEPT;
	} while (!__atomic_compare_exchange_n(p, &seen, (to & ~(XM_PG_WAITER | KEPT)) | keep, false,
					      __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	return (seen & XM_PG_WAITER) != 0;
}

bool xm_pg_clear(xm_pte *p)
{
	return (__atomic_fetch_and(p, XM_PG_QUEUED, __ATOMIC_ACQ_REL) & XM_PG_WAITER) != 0;
}

void xm_pg_note_slot(xm_pte *p, uint64_t slot)
{
	xm_pte seen = xm_pg_load(p);

	while (!__atomic_compare_exchange_n(p, &seen, xm_pg_with_slot(seen, slot), false, __ATOMIC_ACQ_REL,
					    __ATOMIC_ACQUIRE))
		;
}

void xm_pg_drop_slot(xm_pte *p)
{
	xm_pte seen = xm_pg_load(p);

	while (!__atomic_compare_exchange_n(p, &seen, xm_pg_without_slot(seen), false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}
