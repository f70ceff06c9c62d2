/* The ring exchange of collectives/ring.cpp over endless steps: reduce-scatter round the ring, in place, chunk by
 * chunk; the owner's update takes the place of the all-gather.
 *
 * Checked: every owner's sum holds every rank's gradient once (no lost, no doubled chunk); no chunk is read before it
 * is published, nor written while it is read; descriptors come in the order in which the receiver computes that they
 * are due; rings hold what they must; ranks differ by at most one step; every step commits (no deadlock, and no cycle
 * without a commit).
 * A rank's gradient is written and published bucket by bucket, with progress() in between; Rule G parts steps. Slices
 * have CHUNKS chunks, but the last rank's slice has none in the last bucket.
 * Abstracted: a chunk is a word with the step it is of, modulo 2, and the set of ranks whose gradients it sums, or
 * BUSY while it is written; the left neighbour's is looked at twice, and must be the same. Steps and versions count
 * modulo 4. Accesses are seen in order (spsc_ring.pml and step.pml have the non-temporal stores), a ring is a queue,
 * waits are guards, and waits for several versions are one guard. Forward is left out: Rule G waits for all that it
 * waits for.
 */
#ifndef RANKS
#define RANKS 2
#endif
#ifndef BUCKETS
#define BUCKETS 2
#endif
#ifndef CHUNKS
#define CHUNKS 2
#endif
#define MOD 4
#define BUSY 255
#define REACHED(v, k) (((v) + MOD - (k)) % MOD < MOD / 2)
#define BEFORE(k) (((k) + MOD - 1) % MOD)
#define ALL_RANKS ((1 << RANKS) - 1)
#define SUM(k, set) ((k) % 2 * 8 + (set))

#define CHUNKS_OF(slice, b) ((slice) == RANKS - 1 && (b) == BUCKETS - 1 && BUCKETS > 1 -> 0 : CHUNKS)
#define GRADIENT(r, b, slice, chunk) gradient[(((r) * BUCKETS + (b)) * RANKS + (slice)) * CHUNKS + (chunk)]
#define VERSION(r, b) version[(r) * BUCKETS + (b)]
#define SLICE_IN_ROUND(source, round) (((source) + 2 * RANKS - 1 - (round)) % RANKS)
#define LEFT ((me + RANKS - 1) % RANKS)
#if RANKS == 2
#define ALL(what) (what(0) && what(1))
#else
#define ALL(what) (what(0) && what(1) && what(2))
#endif

byte gradient[RANKS * BUCKETS * RANKS * CHUNKS];
byte version[RANKS * BUCKETS];
byte step[RANKS];
/* ring[r]: from rank r to its right neighbour; step, bucket, round, chunk. */
chan ring[RANKS] = [BUCKETS * (RANKS - 1) * CHUNKS] of { byte, byte, byte, byte };

#define k step[me]
#define updated_before(r) REACHED(VERSION(r, b), BEFORE(k))
#define not_far(r) ((step[r] + MOD - k) % MOD != 2)

/* What comes next from the left is there, and of one of the first n buckets; others must wait for this rank's own. */
#define HEAD_IS(b) ring[LEFT]?[_, b, _, _]
#if BUCKETS == 1
#define HEAD_BEFORE(n) (n > 0 && HEAD_IS(0))
#else
#define HEAD_BEFORE(n) (n > 0 && HEAD_IS(0) || n > 1 && HEAD_IS(1))
#endif

inline send(bucket, round, chunk) {
  assert(nfull(ring[me]));
  ring[me]!k, bucket, round, chunk                        /* R0 */
}

inline skip_empty_rounds(bucket) {
  do
  :: cursor[bucket] < RANKS - 1 && CHUNKS_OF(SLICE_IN_ROUND(LEFT, cursor[bucket]), bucket) == 0 -> cursor[bucket]++
  :: else -> break
  od
}

/* take_one(): one chunk from the left; only where the one that is next can be taken. */
inline take_one() {
  atomic {
    ring[LEFT]?got, b, round, chunk;                      /* A0, R1 */
    assert(got == k && round == cursor[b] && chunk == cursor_chunk[b]);
    got = 0;
    due--;
    slice = SLICE_IN_ROUND(LEFT, round);
    sum = GRADIENT(LEFT, b, slice, chunk)
  }
  atomic {
    assert(sum == GRADIENT(LEFT, b, slice, chunk));       /* whole, and not written meanwhile */
    assert(sum != BUSY && sum / 8 == k % 2 && GRADIENT(me, b, slice, chunk) == SUM(k, 1 << me));
    assert((sum & (1 << me)) == 0);                       /* not doubled */
    sum = sum | (1 << me);
    if
    :: slice == me -> assert(sum == SUM(k, ALL_RANKS))    /* none lost: goes to the update */
    :: else ->
#ifdef SEND_BEFORE_ADD
      send(b, round + 1, chunk);
#endif
      GRADIENT(me, b, slice, chunk) = BUSY
    fi
  }
  if
  :: slice != me ->
    GRADIENT(me, b, slice, chunk) = sum;
#ifndef SEND_BEFORE_ADD
    atomic { send(b, round + 1, chunk) }
#endif
  :: else
  fi;
  atomic {
    cursor_chunk[b]++;
    if
    :: cursor_chunk[b] == CHUNKS_OF(slice, b) ->
      cursor_chunk[b] = 0;
      cursor[b]++;
      skip_empty_rounds(b);
      if
      :: slice == me -> VERSION(me, b) = k                /* V0 */
      :: else
      fi
    :: else
    fi;
    b = 0; round = 0; chunk = 0; slice = 0; sum = 0
  }
}

proctype rank(byte me) {
  byte b = 0, got = 0, round = 0, chunk = 0, slice = 0, sum = 0, published = 0, due = 0;
  byte cursor[BUCKETS], cursor_chunk[BUCKETS];            /* how far each bucket has come from the left */
  do
  :: atomic {                                             /* begin() */
      do
      :: b < BUCKETS ->
        cursor[b] = 0;
        skip_empty_rounds(b);
        for (slice : 0 .. RANKS - 1) {
          if
          :: slice != LEFT -> due = due + CHUNKS_OF(slice, b)
          :: else
          fi
        }
        slice = 0;
        b++
      :: else -> b = 0; break
      od
    }
#ifndef NO_RULE_G
    atomic {                                              /* Rule G */
      do
      :: b < BUCKETS -> ALL(updated_before); b++          /* V1 */
      :: else -> b = 0; break
      od
    }
#endif
    do
    :: published < BUCKETS ->                             /* backward, publish() */
      d_step {
        for (slice : 0 .. RANKS - 1) { for (chunk : 0 .. CHUNKS - 1) { GRADIENT(me, published, slice, chunk) = BUSY } }
        slice = 0; chunk = 0
      }
      atomic {
        for (slice : 0 .. RANKS - 1) {
          for (chunk : 0 .. CHUNKS - 1) { GRADIENT(me, published, slice, chunk) = SUM(k, 1 << me) }
        }
        slice = 0; chunk = 0
      }
      do
      :: chunk < CHUNKS_OF(SLICE_IN_ROUND(me, 0), published) -> atomic { send(published, 0, chunk); chunk++ }
      :: else -> chunk = 0; break
      od;
progress:
      atomic {
        if
        :: CHUNKS_OF(me, published) == 0 -> VERSION(me, published) = k /* V0 */
        :: else
        fi;
        published++
      }
#ifdef NO_DUE
    :: HEAD_BEFORE(published) -> take_one()               /* progress() */
#else
    :: due > 0 && HEAD_BEFORE(published) -> take_one()    /* progress() */
#endif
    :: published == BUCKETS && due == 0 -> published = 0; break        /* finish() */
    od;
    atomic { k = (k + 1) % MOD; assert(ALL(not_far)) }
  od
}

init {
  byte i;
  atomic {
    for (i : 0 .. RANKS * BUCKETS * RANKS * CHUNKS - 1) { gradient[i] = BUSY }
    for (i : 0 .. RANKS - 1) { step[i] = 1; run rank(i) }
  }
}
