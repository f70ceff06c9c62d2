/* Abort and recovery, by the launcher alone: a run of STEPS steps in which up to DEATHS ranks die, wherever they are.
 *
 * Checked: no hang after an abort (every run ends: no deadlock, no cycle); what ranks write, they write in the attempt
 * under way and never while the launcher counts on them standing still; the committed generation is never written;
 * nothing is read half written; descriptors are of the step and the attempt that are due; at the end all versions are
 * STEPS and every slice holds each step's update once.
 * The launcher: (1) abort word, all doorbells; (2, 3) waits until every rank is parked or dead; (4) c = the smallest
 * version; (5) versions := c, rings cleared; (6) forks; a death before (7) begins again at (1); (7) abort word down,
 * then attempt + 1, which is what releases, all doorbells.
 * Abstracted: a hung rank that the launcher kills is one that dies; it may die at every step, in start-up, parked, in
 * evaluation and while it waits to be dismissed. One bucket: another rank's slice stands for another bucket. Steps
 * modulo 8 with NONE one before 0, attempts modulo 2. A slice holds how many updates it has had, or BUSY. Waits are
 * guards that see the abort word (sleep.pml says why); with two ranks the doorbell is modelled where parked ranks
 * sleep, since the launcher changes attempts under it. Fences and buffers are in the other models; a death takes no
 * store back.
 * Left open by the design and settled here: `parked` holds the attempt that the rank has left, so none that is out of
 * date is taken for a new one; doorbells and sleeper bits are not cleared; a forked rank is told its attempt, and is
 * parked from birth. A death after all have finished needs no recovery.
 */
#ifndef RANKS
#define RANKS 2
#endif
#ifndef STEPS
#define STEPS 2
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#if RANKS == 2
#define DOORBELLS
#endif
#define MOD 8
#define NONE (MOD - 1)
#define BUSY MOD
#define REACHED(v, k) (((v) + MOD - (k)) % MOD < MOD / 2)
#define BEFORE(k) (((k) + MOD - 1) % MOD)
#define SLICE(k, r) weights[(k) % 2 * RANKS + (r)]
#define RING(from, to) ring[(from) * RANKS + (to)]
#define EMPTY 0
#define DESCRIPTOR(step, attempt) (1 + 2 * (step) + (attempt))
#if RANKS == 2
#define ALL(what) (what(0) && what(1))
#define ANY(what) (what(0) || what(1))
#else
#define ALL(what) (what(0) && what(1) && what(2))
#define ANY(what) (what(0) || what(1) || what(2))
#endif

/* In the segment. */
bool abort = false, dismissed = false;
bit attempt = 0;
byte version[RANKS];
byte weights[2 * RANKS];
byte gradient[RANKS];
bit parked[RANKS];                  /* the attempt that the rank has left */
#ifdef PARKED_FLAG
bit given[RANKS];
#define GIVEN(r) given[r]
#define BORN_PARKED parked[r] = 1
#else
#define GIVEN(r) parked[r]
#define BORN_PARKED skip
#endif
bool finished[RANKS];
byte doorbell[RANKS];               /* modulo 4 */
bool sleeper[RANKS];
byte ring[RANKS * RANKS];           /* one line: EMPTY, or a DESCRIPTOR */

/* In the kernel. */
bool asleep[RANKS];
bool dead[RANKS];                   /* the pidfd is readable; false again with the next fork */

/* To observe. */
bool still = false;                 /* the launcher counts on nobody writing */
byte deaths;                        /* that may still happen */

#define k step
#define none(r) (version[r] == NONE)
#define reached_before(r) REACHED(version[r], BEFORE(k))
#define reached_now(r) REACHED(version[r], k)
#define not_reached_now(r) (!REACHED(version[r], k))
#define old_whole(r) (SLICE(BEFORE(k), r) == BEFORE(k))
#define new_whole(r) (SLICE(k, r) == k)
#define gradient_whole(r) (gradient[r] == k)
#define has_come(r) ((r) == me || RING(r, me) != EMPTY)
#define has_finished(r) finished[r]
#define is_dead(r) dead[r]
#define at_last(r) (version[r] == STEPS && SLICE(STEPS, r) == STEPS)

/* Before a store to what others read. A generation is committed when all versions have reached it and none a later. */
#define WRITES assert(!still && mine == attempt)
#define WRITES_GENERATION WRITES; assert(ALL(reached_before)); assert(ANY(not_reached_now))

/* A statement of a rank, before which it may die; a wait, which an abort ends. */
#ifdef ENDLESS_DEATHS
#define DIES atomic { deaths > 0 -> goto gone }
#else
#define DIES atomic { deaths > 0 -> deaths--; goto gone }
#endif
#define DO(...) if :: atomic { true -> __VA_ARGS__ } :: DIES fi
#define WAIT(ready) \
  if \
  :: ready \
  :: abort -> goto park \
  :: DIES \
  fi

#ifdef RELEASE_BY_ABORT
#define RELEASED (!abort)
#else
#define RELEASED (attempt != mine)
#endif

/* Takes and validates the descriptors of all others. */
inline take() {
  for (r : 0 .. RANKS - 1) {
    if
    :: r != me -> assert(RING(r, me) == DESCRIPTOR(k, mine)); RING(r, me) = EMPTY
    :: else
    fi
  }
  r = 0
}

proctype rank(byte me) {
  byte step = 0, r = 0, seen = 0;
  bit mine = 0;

begin:                                                    /* of an attempt, at the smallest version */
  k = version[me];
  if
  :: k == NONE ->
    DO(k = 0; WRITES_GENERATION; SLICE(0, me) = BUSY);
    DO(WRITES_GENERATION; SLICE(0, me) = 0);
    DO(WRITES; version[me] = 0)                           /* V0 */
  :: else
  fi;
  do
  :: k < STEPS ->
    k++;
    WAIT(ALL(reached_before));                            /* V1, Rule G */
    DO(assert(ALL(old_whole)); WRITES; gradient[me] = BUSY);
    DO(assert(ALL(old_whole)); WRITES; gradient[me] = k);
    do
    :: atomic { r == me -> r++ }
    :: atomic { r < RANKS && r != me } ->
      DO(WRITES; assert(RING(me, r) == EMPTY); RING(me, r) = DESCRIPTOR(k, mine); r++)   /* R0 */
    :: atomic { r == RANKS -> r = 0; break }
    od;
    WAIT(ALL(has_come));                                  /* A0 */
    DO(take(); assert(ALL(gradient_whole)); WRITES_GENERATION; SLICE(k, me) = BUSY);
    DO(assert(ALL(gradient_whole)); WRITES_GENERATION; SLICE(k, me) = SLICE(BEFORE(k), me) + 1);
    DO(WRITES; version[me] = k)                           /* V0 */
  :: else -> break
  od;
  WAIT(ALL(reached_now));                                 /* evaluation */
  DO(assert(ALL(new_whole)));
  DO(WRITES; finished[me] = true);
  WAIT(dismissed);
  goto end;

park:                                                     /* StepAborted has unwound to the step's boundary */
  atomic { k = 0; r = 0 }
#ifdef PARKED_FLAG
  DO(parked[me] = 1);
#else
  DO(parked[me] = mine);
#endif
sleep:
#ifdef DOORBELLS
  DO(sleeper[me] = true);                                 /* S0, S1 */
  DO(seen = doorbell[me]);                                /* S2 */
  if
  :: RELEASED
  :: !RELEASED ->
    if
    :: atomic { doorbell[me] == seen -> asleep[me] = true }   /* S3 */
    :: doorbell[me] != seen
    fi;
    if
    :: !asleep[me]
    :: DIES
    fi;
    goto sleep
  fi;
#else
  if
  :: RELEASED
  :: DIES
  fi;
#endif
  DO(sleeper[me] = false; seen = 0; mine = attempt);
#ifdef PARKED_FLAG
  DO(parked[me] = 0);
#endif
  goto begin;

gone:
  atomic { dead[me] = true; asleep[me] = false; k = 0; r = 0; seen = 0; mine = 0 }
end_gone:
  atomic {
    !dead[me] ->                                          /* its replacement waits to be released */
#ifdef FORKED_READS_ATTEMPT
    mine = attempt;
#else
    mine = GIVEN(me);                                     /* as the launcher had it at the fork */
#endif
    goto sleep
  }
end:
  skip
}

inline ring_all() {
  do
  :: atomic { r < RANKS && !sleeper[r] -> r++ }
  :: atomic { r < RANKS && sleeper[r] -> doorbell[r] = (doorbell[r] + 1) % 4; asleep[r] = false; r++ }
  :: atomic { r == RANKS -> r = 0; break }
  od
}

proctype launcher() {
  byte r = 0, c = 0;

supervise:
  if
  :: ALL(has_finished) -> dismissed = true; goto over
  :: ANY(is_dead) -> skip
  fi;

again:
  abort = true;                                           /* (1) */
  ring_all();
#ifndef PARKED_NOT_AWAITED
  do                                                      /* (2), (3) */
#ifdef PARKED_FLAG
  :: atomic { r < RANKS && (dead[r] || parked[r]) -> r++ }
#else
  :: atomic { r < RANKS && (dead[r] || parked[r] == attempt) -> r++ }
#endif
  :: atomic { r == RANKS -> r = 0; break }
  od;
#endif
  atomic {
    still = true;
    c = version[0];                                       /* (4) */
    for (r : 1 .. RANKS - 1) {
      if
#ifdef LARGEST_VERSION
      :: !REACHED(c, version[r]) -> c = version[r]
#else
      :: !REACHED(version[r], c) -> c = version[r]
#endif
      :: else
      fi
    }
    r = 0
  }
  atomic {                                                /* (5) */
    for (r : 0 .. RANKS - 1) {
      version[r] = c;
      finished[r] = false;
#ifdef CLEAR_DOORBELLS
      doorbell[r] = 0;
#endif
    }
#ifndef RINGS_KEPT
    for (r : 0 .. RANKS * RANKS - 1) { ring[r] = EMPTY }
#endif
    r = 0; c = 0
  }
  do                                                      /* (6) */
  :: atomic { r < RANKS && dead[r] -> GIVEN(r) = attempt; BORN_PARKED; dead[r] = false; r++ }
  :: atomic { r < RANKS && !dead[r] -> r++ }
  :: atomic { r == RANKS -> r = 0; break }
  od;
  if
  :: ANY(is_dead) -> goto again
  :: !ANY(is_dead)
  fi;
#ifdef ATTEMPT_FIRST
  atomic { still = false; attempt = !attempt }
  abort = false;
#else
  abort = false;                                          /* (7) */
  atomic { still = false; attempt = !attempt }
#endif
  ring_all();
  goto supervise;

over:
  assert(ALL(at_last))
}

init {
  byte i;
  atomic {
    for (i : 0 .. RANKS - 1) {
      version[i] = NONE;
      weights[i] = BUSY;
      weights[RANKS + i] = BUSY;
#ifndef PARKED_FLAG
      parked[i] = 1;
#endif
      run rank(i)
    }
    if
    :: deaths = 0
    :: deaths = 1
#if DEATHS == 2
    :: deaths = 2
#endif
    fi;
    run launcher()
  }
}
