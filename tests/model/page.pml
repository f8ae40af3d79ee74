/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page.pml - one page of external memory in every order of steps, checked by spin (tests/it/model.py runs it).
 *
 *   -DPART=1  one process: thread T writes, reads, discards and forks, thread R reads; a handler, an evictor whose writes
 *             may fail, a prefetcher. The child is looked at when it is made: what it would find is what is right
 *   -DPART=2  parent and child, each one step after the other, in every order of the steps of both: slots that both name;
 *             the child is killed at any step, and what it left is reaped
 *
 * What is checked: a read sees what was written last (in the child: since the fork, before it by the parent); no slot is
 * put more often than it was taken; nobody sleeps for ever: who sleeps has a message that is not read yet, or in a
 * handler's hands, or a page that is BUSY and knows of it (WAITER), or is about to be woken.
 *
 * A step here is one compare-and-swap, one system call or one access there; names are those of fault.c, evict.c,
 * slots.c, fork.c and family_reap.c. The kernel: `present`, `guarded` (write-protected) and `frame` of the page table
 * entry; a fault queues a message and sleeps in one step; UFFDIO_COPY does not replace a page that is there (EEXIST), and wakes.
 *
 * Not in it: mremap, pins and MOVE, lost appliances, shrunk regions, more than one page.
 *
 * -DBUG=n builds a mistake in, which has to be found:
 *   1 a dirty page is not protected before it is copied     2 the evictor does not look for WAITER at the end
 *   3 a slot that the child names too is overwritten        4 the child inherits a page as clean
 *   5 a page is dropped although it could not be written    6 a slot is put before the word forgets it (SIGKILL)
 *   7 a page that comes in by a read is not protected       8 zeros that answer the evictor are not protected
 *   9 the fork does not wait for those who work on pages
 *  10 a page that is made writable ahead is settled clean
 */
#ifndef BUG
#define BUG 0
#endif
#define GUARD_LATE (BUG != 8)

#define SLOTS 3
#define NOBODY 255

#define EMPTY 0
#define REMOTE 2
#define RESIDENT 3
#define FETCHING 4
#define EVICTING 5
#define TAKEN 7
#define BUSY(p) (state[p] >= FETCHING)

/* threads of the program: 0 parent's T, 1 parent's R, 2 child's T */

/* page words */
byte state[2];
bool dirty[2], has[2], waiter[2];
byte slot[2];

/* slots: references, or in whose hand; what is stored at the appliance */
byte refs[SLOTS];
byte hand[SLOTS]; /* 0, or process + 1 */
byte stored[SLOTS];

/* kernel */
bool present[2], guarded[2];
byte frame[2];
bool asleep[2], queued[2];
byte held[2]; /* handlers that have read a message of this thread and are not through with it */
bool by_write[2], by_guard[2];
bool waking[2]; /* the owner is about to wake this process's sleepers */

/* what the program has a right to see */
byte expected[2];

bool gate_closed;
byte inside; /* workers of the parent inside the gate */
bool alive[2] = { true, false };
bool forked;

/* Who sleeps has a message that nobody has read yet, or one in a handler's hands, or a page that is BUSY and knows. */
#define CARED_FOR(t) (!asleep[t] || queued[t] || held[t] || waking[0] || (BUSY(0) && waiter[0]))
#define NOBODY_IS_FORGOTTEN CARED_FOR(0) && CARED_FOR(1)

inline wake(p)
{
	d_step {
		if
		:: p == 0 -> asleep[0] = false; queued[0] = false; asleep[1] = false; queued[1] = false
		:: else
		fi
	}
}

/* ---- slots.c ---- */

#define IS_FREE(s) (refs[s] == 0 && hand[s] == 0)

inline slot_put(s)
{
	atomic {
		assert(refs[s] > 0 || hand[s] > 0);
		if
		:: hand[s] > 0 -> hand[s] = 0
		:: else -> refs[s]--
		fi;
		if
		:: IS_FREE(s) -> stored[s] = 0
		:: else
		fi
	}
}

/* 255: none free */
inline slot_alloc(p, s)
{
	atomic {
		if
		:: IS_FREE(0) -> s = 0; hand[0] = p + 1
		:: else ->
			if
			:: IS_FREE(1) -> s = 1; hand[1] = p + 1
			:: else ->
				if
				:: IS_FREE(2) -> s = 2; hand[2] = p + 1
				:: else -> s = NOBODY
				fi
			fi
		fi
	}
}

/* ---- settle.c: word, slot, wake-up ---- */

inline settle(p, to, to_dirty, to_has)
{
	d_step {
		assert(BUSY(p));
		put = NOBODY;
		if
		:: has[p] && !(to_has) -> put = slot[p]; slot[p] = 0
		:: else
		fi;
		state[p] = to;
		dirty[p] = to_dirty;
		has[p] = to_has;
		assert(to != REMOTE || has[p]);
		wakes = waiter[p];
		waiter[p] = false;
		waking[p] = waking[p] || wakes;
		assert(NOBODY_IS_FORGOTTEN)
	}
	if
	:: put != NOBODY -> slot_put(put); put = NOBODY
	:: else
	fi;
	if
	:: wakes -> d_step { wake(p); waking[p] = false; wakes = false; assert(NOBODY_IS_FORGOTTEN) }
	:: else
	fi
}

/* ---- UFFDIO_COPY ---- */

inline install(p, value, guard, exists)
{
	d_step {
		exists = present[p];
		if
		:: !present[p] -> present[p] = true; frame[p] = value; guarded[p] = guard
		:: else
		fi
	}
	if
	:: !exists -> wake(p)
	:: else
	fi
}

/* ---- fault.c ---- */

inline fault_zero(p)
{
	/* state FETCHING is ours */
	install(p, 0, false, exists);
	settle(p, RESIDENT, true, has[p]);
	if
	:: exists -> wake(p)
	:: else
	fi
}

/* the page comes in; `guard`: known clean from then on */
inline fetch(p, guard)
{
	stage = stored[slot[p]];
	install(p, stage, guard, exists);
	if
	:: has[p] && refs[slot[p]] == 1 && (!(guard) || exists) -> settle(p, RESIDENT, true, false) /* gives_slot */
	:: true -> settle(p, RESIDENT, (!(guard) || exists), true)
	fi;
	if
	:: exists -> wake(p)
	:: else
	fi
}

inline fault_resident(p)
{
	if
	:: guard_fault -> atomic { guarded[p] = false; wake(p) }
	:: else -> install(p, 0, false, exists); wake(p)
	fi;
	settle(p, RESIDENT, (guard_fault || !exists || dirty[p]), has[p])
}

inline resolve(p, t)
{
	do
	:: atomic { state[p] == EMPTY && guard_fault -> guarded[p] = false; wake(p) }; break
	:: atomic { state[p] == EMPTY && !guard_fault -> state[p] = FETCHING }; fault_zero(p); break
	:: atomic { state[p] == REMOTE -> state[p] = FETCHING };
	if
	:: true
	:: write = true /* to make room for another, or because it is likely to be written: track.h */
	fi;
#if BUG == 7
		fetch(p, false);
		dirty[p] = false;
#else
		fetch(p, !write);
#endif
		break
	:: atomic { state[p] == RESIDENT -> state[p] = FETCHING }; fault_resident(p); break
	:: atomic { BUSY(p) -> waiter[p] = true }; break
	od
}

inline take_message(t)
{
	atomic {
		queued[t] && !gate_closed ->
		queued[t] = false;
		held[t]++;
		write = by_write[t];
		guard_fault = by_guard[t];
		by_write[t] = false;
		by_guard[t] = false;
		who = t;
		inside++
	}
}

inline let_go()
{
	d_step {
		held[who]--;
		assert(NOBODY_IS_FORGOTTEN);
		inside--;
		write = false;
		guard_fault = false;
		exists = false;
		stage = 0;
		who = 0
	}
}

proctype handler()
{
	bool write, guard_fault, exists, wakes;
	byte who, stage, put = NOBODY;

end:	do
	:: take_message(0);
		resolve(0, who);
		let_go()
	:: take_message(1);
		resolve(0, who);
		let_go()
	od
}

/* Also makes a clean page writable that is expected to be written, as fault_write does for the next pages of a run; the
 * call may fail. */
proctype prefetcher()
{
	bool exists, wakes;
	byte stage, put = NOBODY;

end:	do
	:: atomic { state[0] == REMOTE && !gate_closed -> state[0] = FETCHING; inside++ };
		fetch(0, true);
		atomic { inside--; exists = false; stage = 0 }
	:: atomic { state[0] == RESIDENT && !dirty[0] && !gate_closed -> state[0] = FETCHING; inside++ };
		if
		:: atomic { true -> guarded[0] = false; wake(0) }
		:: true
		fi;
		settle(0, RESIDENT, (BUG != 10), has[0]);
		atomic { inside-- }
	od
}

#define DROP(p) d_step { present[p] = false; guarded[p] = false; frame[p] = 0 }

/* ---- evict.c ---- */

inline choose_slot(p)
{
	if
	:: has[p] && (refs[slot[p]] == 1 || BUG == 3) -> skip
	:: else ->
		slot_alloc(p, fresh);
		if
		:: fresh == NOBODY -> stays = true
		:: else ->
			d_step { /* xm_pg_note_slot */
				put = (has[p] -> slot[p] : NOBODY);
				slot[p] = fresh;
				has[p] = true
			}
			d_step { hand[fresh] = 0; refs[fresh] = 1; fresh = 0 } /* xm_slots_own */
			if
			:: put != NOBODY -> slot_put(put); put = NOBODY
			:: else
			fi
		fi
	fi
}

inline write_out(p)
{
	if
	:: stays
	:: !stays -> stored[slot[p]] = stage
	:: !stays -> stays = true		  /* not a byte of it arrived */
	:: !stays -> stored[slot[p]] = stage; stays = true /* it did, the answer did not */
	fi
}

inline leave_dirty(p)
{
#if BUG != 1
	guarded[p] = true;
#endif
	if
	:: present[p] -> stage = frame[p]
	:: else -> stage = 0; /* dropped by a discard that passed it by: the handler answers the evictor with zeros */
		install(p, 0, GUARD_LATE, exists)
	fi;
	if
	:: stage == 0 -> zero = true
	:: else -> choose_slot(p); write_out(p)
	fi
}

inline evict(p)
{
	if
	:: dirty[p] || !has[p] -> leave_dirty(p)
	:: else
	fi;
	if
#if BUG == 5
	:: DROP(p)
#else
	:: !stays -> DROP(p)
	:: else -> atomic { guarded[p] = false; wake(p) }
#endif
	fi;
#if BUG == 6
	if
	:: zero && has[p] -> slot_put(slot[p]); has[p] = false
	:: else
	fi;
#endif
#if BUG == 2
	waiter[p] = false;
#endif
	if
	:: stays -> settle(p, RESIDENT, true, has[p])
	:: !stays && zero -> settle(p, EMPTY, false, false)
	:: !stays && !zero -> settle(p, REMOTE, false, true)
	fi;
	d_step { stays = false; zero = false; exists = false; stage = 0 }
}

proctype evictor()
{
	bool exists, wakes, stays, zero;
	byte stage, fresh, put = NOBODY;

end:	do
	:: atomic { state[0] == RESIDENT && !gate_closed -> state[0] = EVICTING; inside++ };
		evict(0);
		inside--
	od
}

/* ---- the program ---- */

#define HITS(p, w) (present[p] && !((w) && guarded[p]))

inline miss(p, t, w)
{
	d_step {
		asleep[t] = true;
		queued[t] = true;
		by_write[t] = w;
		by_guard[t] = present[p]
	}
	!asleep[t]
}

inline read(p, t)
{
	do
	:: atomic { HITS(p, false) -> assert(frame[p] == expected[p]) }; break
	:: atomic { !HITS(p, false) -> miss(p, t, false) }
	od
}

inline store(p, t, value)
{
	do
	:: atomic { HITS(p, true) -> frame[p] = value; expected[p] = value }; break
	:: atomic { !HITS(p, true) -> miss(p, t, true) }
	od
}

/* advice.c: words that are EMPTY are not locked */
inline discard()
{
	do
	:: atomic { state[0] == EMPTY -> took = false }; break
	:: atomic { !BUSY(0) && state[0] != EMPTY -> state[0] = TAKEN; took = true }; break
	od;
	atomic { DROP(0); expected[0] = 0 }
	if
	:: took -> settle(0, EMPTY, false, false)
	:: else
	fi;
	took = false
}

inline fork_words()
{
	d_step {
		state[1] = state[0];
		dirty[1] = dirty[0];
		has[1] = has[0];
		slot[1] = slot[0];
		if
		:: state[0] == RESIDENT ->
#if BUG != 4
			has[1] = false; slot[1] = 0; dirty[1] = true
#endif
		:: else
		fi;
		if
		:: has[1] -> assert(refs[slot[1]] > 0); refs[slot[1]]++
		:: else
		fi;
		present[1] = present[0];
		frame[1] = frame[0];
		expected[1] = expected[0];
		alive[1] = true
	}
}

/* Part 1: the child's words and frame are right, then it is as if it had never been. */
inline fork()
{
	gate_closed = true;
#if BUG != 9
	inside == 0;
#endif
	d_step {
		assert(!BUSY(0));
		assert(state[0] != EMPTY || !present[0]);
		assert(state[0] != EMPTY || expected[0] == 0);
		assert(state[0] != REMOTE || (!present[0] && has[0] && refs[slot[0]] == 1 && stored[slot[0]] == expected[0]));
		assert(state[0] != RESIDENT || (present[0] -> frame[0] : 0) == expected[0])
	}
	gate_closed = false
}

#if PART == 1
active proctype program()
{
	bool took, wakes;
	byte put = NOBODY;

	atomic {
		run handler();
		run evictor();
		run reader();
		run prefetcher()
	}
end:	do
	:: store(0, 0, 0)
	:: store(0, 0, 1)
	:: read(0, 0)
	:: discard()
	:: fork()
	od
}

/* touches, so that faults meet */
proctype reader()
{
end:	do
	:: read(0, 1)
	od
}
#else
/* One of the things that can happen to the page of process p. */
inline live(p, value)
{
	if
	:: state[p] == RESIDENT && !guarded[p] -> atomic { frame[p] = value; expected[p] = value }
	:: state[p] == RESIDENT && !guarded[p] -> atomic { frame[p] = 0; expected[p] = 0 }
	:: state[p] == RESIDENT -> assert(frame[p] == expected[p])
	:: state[p] == RESIDENT && guarded[p] -> atomic { state[p] = FETCHING; guard_fault = true }; fault_resident(p)
	:: state[p] == RESIDENT -> state[p] = EVICTING; evict(p)
	:: state[p] == EMPTY -> assert(expected[p] == 0); state[p] = FETCHING; fault_zero(p)
	:: state[p] == REMOTE -> state[p] = FETCHING; fetch(p, true)
	:: state[p] == REMOTE -> state[p] = FETCHING; fetch(p, false)
	fi
}

active proctype parent()
{
	bool exists, wakes, stays, zero, guard_fault, took;
	byte stage, fresh, put = NOBODY;

end:	do
	:: live(0, 1)
	:: discard()
	:: !forked -> atomic { fork_words(); forked = true; run child() }
	od
}

proctype child()
{
	bool exists, wakes, stays, zero, guard_fault;
	byte stage, fresh, put = NOBODY;

	{
end:	do
	:: live(1, 2)
	od
	} unless { !alive[1] }
}

/* SIGKILL of the child at some moment, then family_reap.c */
active proctype keeper()
{
	byte s = NOBODY, i;

	atomic { alive[1] -> alive[1] = false }
	d_step { /* the word is exchanged with zero */
		if
		:: has[1] -> s = slot[1]
		:: else
		fi;
		has[1] = false;
		state[1] = EMPTY;
		waking[1] = false;
		dirty[1] = false;
		waiter[1] = false;
		slot[1] = 0;
		present[1] = false;
		guarded[1] = false;
		frame[1] = 0;
		expected[1] = 0
	}
	if
	:: s != NOBODY -> slot_put(s)
	:: else
	fi;
	d_step { /* xm_slots_take_back */
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: hand[i] == 2 -> hand[i] = 0
			:: else
			fi;
			i++
		:: else -> break
		od
	}
}
#endif
