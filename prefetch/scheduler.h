/*
 * scheduler.h - which of the wishes is fetched next, and how much may be under way.
 *
 * Wishes wait in a bounded queue: by priority, then class, and within one the nearest first. What an
 * application waits for is never one of them; it goes out at once, and whoever sends it says so
 * (scheduler_demand). While there is demand, only as much is under way here as keeps the link busy: its
 * rate (the highest that was seen lately) times its round trip (the lowest), and a little more, so that it
 * can be seen to carry more. For a moment now and then it is less, since what waits behind ourselves looks
 * like a long way. Bytes beyond that would wait in a queue of the network in front of what is demanded
 * (after Cardwell and others, "BBR: Congestion-Based Congestion Control", ACM Queue 2016). Without demand,
 * hard limits.
 *
 * Pure: no clock, no I/O, fixed size. The owner serializes calls. All zeros but the limits: nothing.
 */
#ifndef PREFETCH_SCHEDULER_H
#define PREFETCH_SCHEDULER_H

#include "prefetch/intent.h"

#define SCHEDULER_WISHES_MAX 512
#define SCHEDULER_DEMAND ((struct duration){ 500 * NS_PER_MS }) /* it goes on for so long */
#define SCHEDULER_BYTES_MIN (UINT64_C(1) << 20)
/* More than fits the link, to see whether it carries more. */
#define SCHEDULER_MORE_SHARE 8
#define SCHEDULER_BYTES_MORE (UINT64_C(256) << 10)
#define SCHEDULER_COUNT_MIN 8u
#define SCHEDULER_SAMPLE ((struct duration){ 100 * NS_PER_MS })
#define SCHEDULER_SAMPLES 64 /* for which rate and round trip are remembered */
#define SCHEDULER_PROBES  2  /* of them: with little under way, to see the round trip as it is */

/* The lower goes first, of one priority. */
enum wish_class { WISH_ASKED, WISH_POLICY, WISH_GUESS };

struct wish {
	struct intent intent;
	enum wish_class class;
	uint64_t who;      /* the owner's: on whose behalf */
	uint64_t position; /* the owner's: how much of it was sent; 0 at first */
	bool again;        /* the owner's: it waited for something, which has come */
	struct instant not_before; /* the owner's: others go meanwhile */
	uint64_t order;    /* of coming in; 0: the place is free */
};

struct scheduler {
	uint64_t bytes_max; /* under way at most: set by the owner */
	uint32_t count_max;
	uint64_t bytes;     /* under way */
	uint32_t count;
	uint64_t orders;
	uint64_t dropped;   /* wishes for which there was no place */
	struct instant demand_at;
	bool demanded;      /* at some time */
	struct {
		uint64_t bytes; /* that arrived */
		uint64_t ns;    /* the shortest transfer; 0: there was none */
		uint64_t of;    /* its bytes */
	} samples[SCHEDULER_SAMPLES];
	uint32_t sample;
	struct instant sample_at; /* when that began */
	struct wish wishes[SCHEDULER_WISHES_MAX];
};

/* An application waits for something. */
void scheduler_demand(struct scheduler *s, struct instant now);
/* A wish comes in; one that is further away goes when all places are taken. It, or NULL: it waits already
   (with the higher priority of both from now on), or there is no place. */
struct wish *scheduler_add(struct scheduler *s, const struct intent *intent, enum wish_class class,
			   uint64_t who);
/* May another transfer of `bytes` be sent now? */
bool scheduler_may(const struct scheduler *s, struct instant now, uint64_t bytes);
/* The wish that is next now, or NULL. Good until the next call that changes the queue. */
struct wish *scheduler_next(struct scheduler *s, struct instant now);
void scheduler_remove(struct scheduler *s, struct wish *wish);
/* Wishes for this inode, or names in it, are not wanted any more. */
void scheduler_cancel(struct scheduler *s, uint64_t inode);
/* Is it a wish of a user's for some of these bytes, or for what is in that directory? */
bool wish_is_asked(const struct wish *wish, uint64_t inode, uint64_t start, uint64_t end);
/* Does one wait? How many do? */
bool scheduler_asked(const struct scheduler *s, uint64_t inode, uint64_t start, uint64_t end);
uint32_t scheduler_asked_count(const struct scheduler *s);
uint32_t scheduler_waiting(const struct scheduler *s);

void scheduler_sent(struct scheduler *s, uint64_t bytes);
/* It ended; `arrived` of its bytes (0: it failed). */
void scheduler_ended(struct scheduler *s, struct instant now, struct instant sent_at, uint64_t bytes,
		     uint64_t arrived);

/* What is allowed to be under way while there is demand, in bytes. */
uint64_t scheduler_window(const struct scheduler *s);

#endif
