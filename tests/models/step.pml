/* Publish, update, versions and Rule G over endless steps: runtime/worker.cpp, collectives/direct.cpp, versions.h.
 *
 * Checked: no owner reads a gradient before it is published; no gradient buffer and no slice of a generation is
 * written while a rank still reads it; what forward, backward, update and evaluation read is whole and of the right
 * step; rings hold what they must; ranks differ by at most one step; every step commits (no deadlock, and no cycle
 * without a commit); after a request to stop all ranks end after the same, committed step.
 * Each rank owns a slice of each bucket. Forward may be left out (an empty shard), evaluation may follow any step.
 * With CLIP (norm_meeting.h): sums are kept, ranks meet for their norms, then slices are updated. Checked as well: no
 * norm is read before it is written or written while it is read, and a kept sum is whole until its update.
 * Abstracted: steps and versions modulo 4 for 2^32, compared as Versions::reached does. A gradient buffer, or a slice
 * of a generation, is a word that holds the step it is of, or BUSY; reading one takes two looks, and both must see the
 * same. Ordinary stores are seen in order; gradients and weights are stored non-temporally, into a write-combining
 * buffer that sfence empties. A ring is a queue of as many lines as a step needs (spsc_ring.pml says why it may be), a
 * wait is a guard (sleep.pml says why), and waits for several ranks are one guard: a version that has been reached
 * stays so until this rank publishes again.
 */
#ifndef RANKS
#define RANKS 2
#endif
#ifndef BUCKETS
#define BUCKETS 2
#endif
#define MOD 4
#define BUSY MOD
#define BEFORE(k) (((k) + MOD - 1) % MOD)
#define REACHED(v, k) (((v) + MOD - (k)) % MOD < MOD / 2)

#define VERSION(r, b) version[(r) * BUCKETS + (b)]
#define GRADIENT(r, b) ((r) * BUCKETS + (b))
#define SLICE(k, r, b) (RANKS * BUCKETS * (1 + (k) % 2) + (r) * BUCKETS + (b)) /* in the generation that k writes */
#define RING(from, to) ring[(from) * RANKS + (to)]

/* CLIP: a rank's row of norms, and whether it has told of those of a step. */
#define NORM(r) (3 * RANKS * BUCKETS + (r))

/* Something for every rank. */
#if RANKS == 2
#define ALL(what) (what(0) && what(1))
#else
#define ALL(what) (what(0) && what(1) && what(2))
#endif

#ifdef CLIP
byte memory[RANKS * BUCKETS * 3 + RANKS];          /* GRADIENT, SLICE and NORM are places in it */
byte told[RANKS];
#else
byte memory[RANKS * BUCKETS * 3];                  /* GRADIENT and SLICE are places in it */
#endif
byte version[RANKS * BUCKETS];
byte step[RANKS];
bool stopping = false;                             /* last_step is set */
byte last_step;
chan ring[RANKS * RANKS] = [BUCKETS] of { byte, byte }; /* step, bucket */
chan combining[RANKS] = [1] of { byte, byte };     /* place, value: stored, not yet to be seen */

proctype hardware(byte me) {
  byte place, value;
end:
  do
  :: atomic { combining[me]?place, value -> memory[place] = value; place = 0; value = 0 }
  od
}

#define k step[me]
#define updated_before(r) REACHED(VERSION(r, b), BEFORE(k))
#define updated_now(r) REACHED(VERSION(r, b), k)
#define old_whole(r) (memory[SLICE(BEFORE(k), r, b)] == BEFORE(k))
#define new_whole(r) (memory[SLICE(k, r, b)] == k)
#ifdef CLIP
#define next_sum summed
#else
#define next_sum updated
#endif
#define gradient_whole(r) (memory[GRADIENT(r, next_sum)] == k)
#define norm_whole(r) (memory[NORM(r)] == k)
#define has_told(r) REACHED(told[r], k)
#define has_come(r) ((r) == me || nempty(RING(r, me)))
#define not_far(r) ((step[r] + MOD - k) % MOD != 2)
#define committed(r) (VERSION(r, 0) == last_step && VERSION(r, BUCKETS - 1) == last_step)

/* Takes the descriptors of the next bucket to be summed and validates them. */
inline take_descriptors() {
  for (r : 0 .. RANKS - 1) {
    if
    :: r != me -> RING(r, me)?got, b; assert(got == k && b == next_sum)
    :: else
    fi
  }
  r = 0; b = 0; got = 0;
  assert(ALL(gradient_whole))
}

#ifdef CLIP
/* Sums into the own gradient, where nobody else reads (so that place keeps its value), and writes the norms; with the
 * last bucket tells of them. */
inline keep() {
  atomic { take_descriptors(); memory[NORM(me)] = BUSY }
#ifdef TOLD_FIRST
  if
  :: summed == BUCKETS - 1 -> told[me] = k
  :: else
  fi;
#endif
  atomic { assert(ALL(gradient_whole)); memory[NORM(me)] = k; summed++ }
#ifndef TOLD_FIRST
  if
  :: summed == BUCKETS -> told[me] = k             /* M0 */
  :: else
  fi
#endif
}
#endif

/* Sums, or adds up the norms and takes the kept sum; updates the own slice, stores the version. */
inline update() {
  atomic {
#ifdef CLIP
    assert(ALL(norm_whole));
    assert(memory[GRADIENT(me, updated)] == k);
#else
    take_descriptors();
#endif
    assert(memory[SLICE(BEFORE(k), me, updated)] == BEFORE(k))
  }
#ifdef VERSION_FIRST
  VERSION(me, updated) = k;
#endif
  memory[SLICE(k, me, updated)] = BUSY;
  atomic {
#ifdef CLIP
    assert(ALL(norm_whole));
    assert(memory[GRADIENT(me, updated)] == k);
#else
    assert(ALL(gradient_whole));
#endif
    assert(memory[SLICE(BEFORE(k), me, updated)] == BEFORE(k));
    combining[me]!SLICE(k, me, updated), k
  }
#ifndef NO_SFENCE_UPDATE
  empty(combining[me]);                            /* sfence */
#endif
progress:
  atomic {
#ifndef VERSION_FIRST
    VERSION(me, updated) = k;                      /* V0 */
#endif
    updated++
  }
}

proctype rank(byte me) {
  byte b = 0, r = 0, got = 0, published = 0, updated = 0;
#ifdef CLIP
  byte summed = 0;
#endif
  do
  :: /* Forward; an empty shard has none. */
    if
    :: true ->
      do
      :: b < BUCKETS ->
        atomic { ALL(updated_before); assert(ALL(old_whole)) }    /* V1 */
        atomic { assert(ALL(old_whole)); b++ }
      :: else -> b = 0; break
      od
    :: true
    fi;
#ifndef NO_RULE_G
    /* Rule G. */
    atomic {
      do
      :: b < BUCKETS -> ALL(updated_before); b++   /* V1 */
      :: else -> b = 0; break
      od
    }
#ifndef STOP_LATE
    /* Stop point. */
    if
    :: stopping && k == (last_step + 1) % MOD -> break
    :: else
    fi;
    if
    :: me == 0 && !stopping -> atomic { stopping = true; last_step = k }
    :: true
    fi;
#endif
#endif
    /* Backward: the old generation is read, gradients are written and published; what is ready is updated. */
    do
    :: published < BUCKETS ->
      b = published;
      atomic { assert(ALL(old_whole)); memory[GRADIENT(me, b)] = BUSY }
      atomic { assert(ALL(old_whole)); combining[me]!GRADIENT(me, b), k }
#ifndef NO_SFENCE_PUBLISH
      empty(combining[me]);                        /* sfence */
#endif
      b = 0;
      do
      :: r < RANKS ->
        if
        :: r != me -> atomic { assert(nfull(RING(me, r))); RING(me, r)!k, published; r++ }  /* R0 */
        :: else -> r++
        fi
      :: else -> r = 0; break
      od;
      published++
#ifdef CLIP
    :: summed < published && ALL(has_come) -> keep()              /* A0 */
#ifdef NO_MEETING
    :: summed == BUCKETS && updated < BUCKETS -> update()
#else
    :: summed == BUCKETS && updated < BUCKETS && ALL(has_told) -> update()    /* M1 */
#endif
    :: published == BUCKETS && updated == BUCKETS -> published = 0; summed = 0; updated = 0; break
#else
    :: updated < published && ALL(has_come) -> update()           /* A0 */
    :: published == BUCKETS && updated == BUCKETS -> published = 0; updated = 0; break
#endif
    od;
#ifdef STOP_LATE
    if
    :: stopping && k == last_step -> atomic { k = (k + 1) % MOD; break }
    :: me == 0 && !stopping -> atomic { stopping = true; last_step = k; k = (k + 1) % MOD; break }
    :: !stopping || k != last_step
    fi;
#endif
    /* Evaluation. */
    if
    :: true ->
      do
      :: b < BUCKETS -> ALL(updated_now); b++      /* V1 */
      :: else -> b = 0; break
      od;
      do
      :: b < BUCKETS -> assert(ALL(new_whole)); b++
      :: else -> b = 0; break
      od
    :: true
    fi;
    atomic { k = (k + 1) % MOD; assert(ALL(not_far)) }
  od;
  assert(stopping && k == (last_step + 1) % MOD && ALL(committed))
}

init {
  byte i;
  atomic {
    for (i : 0 .. RANKS * BUCKETS - 1) { memory[i] = BUSY; memory[2 * RANKS * BUCKETS + i] = BUSY }
    i = 0;
    for (i : 0 .. RANKS - 1) { step[i] = 1; run hardware(i); run rank(i) }
  }
}
