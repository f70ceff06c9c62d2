/* The ring of collectives/spsc_ring.h: sequence words, lines, payload that is handed over with them.
 *
 * Checked: messages come once, whole and in order (no lost, no doubled one); neither the descriptor nor the payload is
 * read before it is published or overwritten while it is read; nobody is ever stuck; all of it while the sequence
 * words and the positions wrap.
 * Ranks form a circle, rank r sends to r + 1, so each is a sender and a receiver, in any order it likes.
 * Abstracted: two lines for any power of two. Counters modulo 4 for 2^64: the least that tells n, n + 1 and n +
 * capacity apart. A descriptor is two words, written and read one after the other. A message carries its number modulo
 * 3 (three ranks: 4), which tells it from those before and after and from the line's last. Every access is one step of
 * an interleaving, and a release store is made when all earlier ordinary stores are; non-temporal ones lie in a
 * write-combining buffer until the hardware pleases or an sfence empties it. One payload word per line, free again
 * with the line (in a run the payload lies in the gradients, and Rule G frees it: step.pml). try_send and peek that
 * find nothing change nothing, so they are guards. reset() is in recovery.pml.
 */
#ifndef RANKS
#define RANKS 2
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#define MOD 4
#if RANKS == 2
#define STAMPS 3
#else
#define STAMPS MOD
#endif
#define LEFT ((me + RANKS - 1) % RANKS)

typedef Line {
  byte sequence;
  byte front, back; /* the descriptor */
  byte payload
};
typedef Ring {
  Line line[CAPACITY]
};
Ring ring[RANKS];                                  /* of rank r: to rank r + 1 */
chan combining[RANKS] = [1] of { byte, byte };     /* line, payload: stored, not yet to be seen */

/* The hardware. */
proctype memory(byte me) {
  byte line, payload;
end:
  do
  :: atomic { combining[me]?line, payload -> ring[me].line[line].payload = payload; line = 0; payload = 0 }
  od
}

#define OUT ring[me].line[sent % CAPACITY]
#define IN ring[LEFT].line[taken % CAPACITY]

proctype rank(byte me) {
  byte sent = 0, taken = 0;   /* next_ of sender and receiver, modulo MOD */
  byte put = 0, due = 0;      /* the message that comes next, modulo STAMPS */
  do
#ifdef IGNORE_FULL
  :: true ->
#else
  :: OUT.sequence == sent ->                               /* A1 */
#endif
    combining[me]!(sent % CAPACITY), put;                  /* the payload, non-temporal */
#ifndef NO_SFENCE
    empty(combining[me]);                                  /* sfence */
#endif
#ifdef SEQUENCE_FIRST
    OUT.sequence = (sent + 1) % MOD;
    OUT.front = put;
    OUT.back = put;
#else
    OUT.front = put;
    OUT.back = put;
    OUT.sequence = (sent + 1) % MOD;                       /* R0 */
#endif
    atomic { sent = (sent + 1) % MOD; put = (put + 1) % STAMPS }
  :: IN.sequence == (taken + 1) % MOD ->                   /* A0 */
#ifdef TAKE_FIRST
    IN.sequence = (taken + CAPACITY) % MOD;
#endif
    assert(IN.front == due);
    assert(IN.back == due);
    assert(IN.payload == due);
#ifndef TAKE_FIRST
    IN.sequence = (taken + CAPACITY) % MOD;                /* R1 */
#endif
    atomic { taken = (taken + 1) % MOD; due = (due + 1) % STAMPS }
  od
}

init {
  byte i, j;
  atomic {
    for (i : 0 .. RANKS - 1) {
      for (j : 0 .. CAPACITY - 1) {
        ring[i].line[j].sequence = j;
        ring[i].line[j].front = STAMPS;   /* no message has this stamp */
        ring[i].line[j].back = STAMPS;
        ring[i].line[j].payload = STAMPS
      }
    }
    i = 0; j = 0;
    for (i : 0 .. RANKS - 1) { run memory(i); run rank(i) }
  }
}
