/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagetab.h - one atomic 64-bit word a page of the external range; the only place that knows its layout and
 * the only writer of page state. The words live in the family object (shared memory, never external), so that
 * another process can take them over when this one dies.
 *
 *   63            24 23        16 15  12 11    8  7        4  3      2..0
 *  +----------------+------------+------+-------+----------+-------+-------+
 *  |  slot (40)     | epoch (8)  | holds|Q prev |  flags   | dirty | state |   (prev: of a REMOTE page, how it left)
 *  +----------------+------------+------+-------+----------+-------+-------+
 *
 * state     EMPTY 0     never written or discarded: reads as zeros, no remote copy. Whether the address is mapped
 *                     at all is the kernel's knowledge: an unmapped one never comes here, it is SIGSEGV
 *           FREED 1     mapped, but given back by a shrunk region: not present, a touch is SIGBUS
 *           REMOTE 2    only copy in `slot`
 *           RESIDENT 3  in a frame; HAS_SLOT without DIRTY: `slot` holds the same bytes (write-protected)
 *           FETCHING 4 / EVICTING 5 / TAKEN 7   one thread ("the owner") works on it: BUSY
 *                     (TAKEN: by a mapping call: unmap, discard, remap; FETCHING also while a LOST or FREED page
 *                     is made unreadable)
 *           LOST 6      the only copy was lost with its appliance: a touch is SIGBUS
 * flags     WAITER    somebody sleeps in the kernel on this page: wake it when BUSY ends
 *           HAS_SLOT  slot is valid and referenced by this word (explicit regions: always the page's own slot,
 *                     also while EMPTY)
 *           PINNED    never evicted (mlock, thread stacks, robust mutexes)
 *           REF       used since the eviction policy last asked
 *           QUEUED    the eviction policy has an entry for this page: it is not given a second one
 * holds     number of calls in progress that need the page to stay (0..15)
 * epoch     coarse age: value of the process's insertion clock when the page became resident; of a REMOTE page that says how
 *           it left: when
 *
 * All zero words are EMPTY pages, so a fresh page table costs nothing, however large the mapping.
 * Legal transitions: the table next_states in pagetab.c, checked in checked builds. A BUSY word is changed
 * only by its owner, except that anybody may change WAITER, PINNED, QUEUED and holds.
 */
#ifndef XM_PAGETAB_H
#define XM_PAGETAB_H

#include <stdbool.h>
#include <stdint.h>

#include "util.h"

typedef uint64_t xm_pte; /* the word; the one typedef of the project: it is an integer, not a struct */

enum xm_page_state {
	XM_PG_EMPTY = 0,
	XM_PG_FREED = 1,
	XM_PG_REMOTE = 2,
	XM_PG_RESIDENT = 3,
	XM_PG_FETCHING = 4,
	XM_PG_EVICTING = 5,
	XM_PG_LOST = 6,
	XM_PG_TAKEN = 7,
};

#define XM_PG_STATE_MASK 7ull
#define XM_PG_DIRTY (1ull << 3)
#define XM_PG_WAITER (1ull << 4)
#define XM_PG_HAS_SLOT (1ull << 5)
#define XM_PG_PINNED (1ull << 6)
#define XM_PG_REF (1ull << 7)
#define XM_PG_PREV_SHIFT 8 /* of a TAKEN page: the state it had */
#define XM_PG_PREV_MASK (7ull << XM_PG_PREV_SHIFT)
#define XM_PG_LEFT_SHIFT 8 /* of a REMOTE page: enum xm_page_left */
#define XM_PG_LEFT_MASK (3ull << XM_PG_LEFT_SHIFT)
#define XM_PG_QUEUED (1ull << 11)
#define XM_PG_HOLD_SHIFT 12
#define XM_PG_HOLD_ONE (1ull << XM_PG_HOLD_SHIFT)
#define XM_PG_HOLD_MASK (15ull << XM_PG_HOLD_SHIFT)
#define XM_PG_EPOCH_SHIFT 16
#define XM_PG_EPOCH_MASK (255ull << XM_PG_EPOCH_SHIFT)
#define XM_PG_SLOT_SHIFT 24

/* How a page left, for early.h. */
enum xm_page_left {
	XM_LEFT_UNKNOWN = 0, /* clean, or by advice */
	XM_LEFT_IN_TIME = 1,
	XM_LEFT_EARLY = 2,
};

static inline enum xm_page_state xm_pg_state(xm_pte w)
{
	return (enum xm_page_state)(w & XM_PG_STATE_MASK);
}

static inline bool xm_pg_busy(xm_pte w)
{
	return (0xb0u >> (w & XM_PG_STATE_MASK)) & 1; /* FETCHING 4, EVICTING 5, TAKEN 7 */
}

static inline uint64_t xm_pg_slot(xm_pte w)
{
	return w >> XM_PG_SLOT_SHIFT;
}

static inline xm_pte xm_pg_with_state(xm_pte w, enum xm_page_state s)
{
	return (w & ~XM_PG_STATE_MASK) | (xm_pte)s;
}

static inline xm_pte xm_pg_with_slot(xm_pte w, uint64_t slot)
{
	return (w & ((1ull << XM_PG_SLOT_SHIFT) - 1)) | XM_PG_HAS_SLOT | (slot << XM_PG_SLOT_SHIFT);
}

static inline xm_pte xm_pg_without_slot(xm_pte w)
{
	return w & ((1ull << XM_PG_SLOT_SHIFT) - 1) & ~XM_PG_HAS_SLOT;
}

static inline xm_pte xm_pg_with_epoch(xm_pte w, uint8_t e)
{
	return (w & ~XM_PG_EPOCH_MASK) | ((xm_pte)e << XM_PG_EPOCH_SHIFT);
}

static inline uint8_t xm_pg_epoch(xm_pte w)
{
	return (uint8_t)((w & XM_PG_EPOCH_MASK) >> XM_PG_EPOCH_SHIFT);
}

static inline enum xm_page_left xm_pg_left(xm_pte w)
{
	return (enum xm_page_left)((w & XM_PG_LEFT_MASK) >> XM_PG_LEFT_SHIFT);
}

static inline xm_pte xm_pg_with_left(xm_pte w, enum xm_page_left left)
{
	return (w & ~XM_PG_LEFT_MASK) | (xm_pte)left << XM_PG_LEFT_SHIFT;
}

/* Whether the page has bytes that no slot has. */
static inline bool xm_pg_unsaved(xm_pte w)
{
	return (w & XM_PG_DIRTY) || !(w & XM_PG_HAS_SLOT);
}

/* Whether the transition is one of the table above. Pure; used by checked builds and by tests. */
bool xm_pg_legal(xm_pte from, xm_pte to);

static inline xm_pte xm_pg_load(const xm_pte *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Changes *p from *seen to to; on failure *seen is the current word. */
bool xm_pg_cas(xm_pte *p, xm_pte *seen, xm_pte to);
/* By the owner of a BUSY page: sets the final word; PINNED, QUEUED and holds stay as they are now; returns
 * true when WAITER was set (the caller then wakes the page's sleepers). */
bool xm_pg_finish(xm_pte *p, xm_pte to);

/* By the owner of a BUSY page: the word names this slot from now on, so that it is found if this process dies. */
void xm_pg_note_slot(xm_pte *p, uint64_t slot);
/* By the same: it names none. The slot is not put. */
void xm_pg_drop_slot(xm_pte *p);

/* By a mapping call, for a page that is not BUSY: locks it TAKEN and remembers the state it had. */
static inline xm_pte xm_pg_taken(xm_pte w)
{
	return (w & ~(XM_PG_STATE_MASK | XM_PG_PREV_MASK)) | XM_PG_TAKEN | (w & XM_PG_STATE_MASK) << XM_PG_PREV_SHIFT;
}

static inline enum xm_page_state xm_pg_prev(xm_pte w)
{
	return (enum xm_page_state)((w & XM_PG_PREV_MASK) >> XM_PG_PREV_SHIFT);
}

/* By the owner of a TAKEN page that is unmapped: the word becomes EMPTY, without pins and holds. True: WAITER. */
bool xm_pg_clear(xm_pte *p);

#endif
