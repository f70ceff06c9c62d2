/* Sleeping and waking: doorbells, the sleeper mask and the pair of fences, S0-S3 and W0-W3 of collectives/wait.h.
 *
 * Checked: no wake-up is lost. When a waker is through, nobody sleeps who waits for what it has stored, and nobody at
 * all once the abort word is raised; nobody sleeps for ever (no deadlock, and no cycle without a round done).
 * Ranks play rounds without end: each stores a word that all others wait for, wakes all, and waits for the words of
 * the others one by one. The launcher raises the abort word at any time, or never.
 * Abstracted: memory is that of x86 (TSO): each process has a first-in-first-out buffer of stores that others see when
 * the hardware pleases; a seq_cst fence, a locked instruction and a system call wait until it is empty. S0, a relaxed
 * fetch_or, goes through the buffer as well, though x86 locks it: C++ promises no more, and S1 would have nothing to
 * do otherwise. Loads happen in program order. FUTEX_WAIT compares and falls asleep in one step, as the kernel does
 * under its lock. It has no timeout here: the slice of 100 ms would hide a lost wake-up. Words count modulo 4. Of a
 * doorbell only the difference to what S2 read matters, so that is kept, modulo 8: more than all can ring between S2
 * and S3 (after 2^32 rings a doorbell would look as if never rung: DOORBELLS=2 shows it). Heartbeats and deadlines are
 * left out. Leaving sleep clears the bit at once: later would only ring more.
 * Three ranks take two runs: rounds without end with NO_LAUNCHER, and ROUNDS rounds, after which only an abort ends
 * the waits.
 */
#ifndef RANKS
#define RANKS 2
#endif
#ifndef DOORBELLS
#define DOORBELLS 8
#endif
#define MOD 4
#define REACHED(v, k) (((v) + MOD - (k)) % MOD < MOD / 2)
#define LAUNCHER RANKS
#define NOBODY (RANKS + 1)
#if RANKS == 2
#define ANY(what) (what(0) || what(1))
#else
#define ANY(what) (what(0) || what(1) || what(2))
#endif

byte word[RANKS];                   /* what ranks wait for: a version, a line of a ring */
bool sleeper[RANKS];                /* the mask's bits */
byte doorbell[RANKS];               /* rings since S2 read it */
bool armed[RANKS];                  /* between S2 and S3 */
bool asleep[RANKS];                 /* in the kernel */
bool abort;
byte round[RANKS];                  /* what the rank has stored last and waits for */
byte awaited[RANKS];                /* to observe: of whom it waits for it; NOBODY: it does not */

mtype = { WORD, SLEEPER, ABORT };
chan buffer[RANKS + 1] = [2] of { mtype }; /* stores that the others have not seen yet */

/* Stores come out of the buffers. */
proctype hardware() {
end:
  do
  :: atomic { buffer[0]?WORD -> word[0] = round[0] }
  :: atomic { buffer[0]?SLEEPER -> sleeper[0] = true }
  :: atomic { buffer[1]?WORD -> word[1] = round[1] }
  :: atomic { buffer[1]?SLEEPER -> sleeper[1] = true }
#if RANKS == 3
  :: atomic { buffer[2]?WORD -> word[2] = round[2] }
  :: atomic { buffer[2]?SLEEPER -> sleeper[2] = true }
#endif
  :: atomic { buffer[LAUNCHER]?ABORT -> abort = true }
  od
}

/* A seq_cst fence; a locked instruction and a system call have the same effect. */
#define FENCE empty(buffer[me])

inline wake_all() {
#ifndef NO_FENCE_WAKER
  FENCE;                                                         /* W1 */
#endif
  do
  :: atomic { peer < RANKS && (peer == me || !sleeper[peer]) -> peer++ }   /* W2 */
  :: atomic { peer < RANKS && peer != me && sleeper[peer] } ->   /* W2 */
    atomic {
      FENCE;
      if
      :: armed[peer] -> doorbell[peer] = (doorbell[peer] + 1) % DOORBELLS  /* W3 */
      :: else
      fi
    }
    atomic { asleep[peer] = false; peer++ }                      /* W3: FUTEX_WAKE */
  :: atomic { peer == RANKS -> peer = 0; break }
  od
}

#define READY REACHED(word[peer], round[me])
#define lost(r) (asleep[r] && awaited[r] == me && REACHED(word[me], round[r]))
#define left_asleep(r) (asleep[r] && abort)

/* Waiter::wait for the word of `peer`. */
inline wait() {
  do
  :: READY -> break
  :: !READY ->
    if
    :: abort -> goto aborted                                     /* check_abort */
    :: atomic { !abort -> buffer[me]!SLEEPER; awaited[me] = peer }   /* S0 */
    fi;
#ifndef NO_FENCE_SLEEPER
    FENCE;                                                       /* S1 */
#endif
#ifndef DOORBELL_LATE
    armed[me] = true;                                            /* S2: reads the doorbell */
#endif
    if
    :: READY                                                     /* S2: looks again */
    :: !READY ->
#ifdef DOORBELL_LATE
      armed[me] = true;
#endif
#ifndef NO_ABORT_CHECK
      if
      :: abort
      :: !abort ->
#endif
        atomic { FENCE; asleep[me] = (doorbell[me] == 0); armed[me] = false; doorbell[me] = 0 }   /* S3 */
        !asleep[me]
#ifndef NO_ABORT_CHECK
      fi
#endif
    fi;
    atomic { FENCE; sleeper[me] = false; awaited[me] = NOBODY; armed[me] = false; doorbell[me] = 0 }
  od
}

proctype rank(byte me) {
  byte peer = 0;
  do
#ifdef ROUNDS
  :: atomic {
      round[me]++;
      if
      :: round[me] <= ROUNDS -> buffer[me]!WORD                  /* W0 */
      :: else                                                    /* now it waits for what never comes */
      fi
    }
#else
  :: atomic { round[me] = (round[me] + 1) % MOD; buffer[me]!WORD }   /* W0 */
#endif
    wake_all();
    assert(!ANY(lost));
    do
    :: atomic { peer == me -> peer++ }
    :: peer < RANKS && peer != me -> wait(); peer++
    :: atomic { peer == RANKS -> peer = 0; break }
    od;
progress:
    skip
  od;
aborted:
  skip
}

proctype launcher() {
  byte me = LAUNCHER, peer = 0;
  if
  :: buffer[me]!ABORT;                                           /* W0 */
#ifndef ABORT_SILENT
    wake_all();
#endif
    assert(!ANY(left_asleep))
#ifndef ROUNDS
  :: true
#endif
  fi
}

init {
  byte i;
  atomic {
    for (i : 0 .. RANKS - 1) { awaited[i] = NOBODY; run rank(i) }
    run hardware();
#ifndef NO_LAUNCHER
    run launcher()
#endif
  }
}
