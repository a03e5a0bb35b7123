/*
 * pace.h - how far ahead of its reader a job goes that knows the order.
 *
 * A job asks for pieces in the order in which they will be read, and hears of each whether it was. It
 * may have `window` bytes asked for that were not read yet. Readers may take pieces a bit out of order
 * (several workers do): each one that was read makes room for the next. One that is passed, since others
 * PACE_SLACK behind it were read, will not be read any more as far as the job knows.
 *
 * Pure: no clock, no I/O, fixed size. Pieces are numbered from 0 on as they are asked for.
 */
#ifndef PREFETCH_PACE_H
#define PREFETCH_PACE_H

#include "lease/base/types.h"

#define PACE_PIECES_MAX 1024u /* from the first that is not over */
#define PACE_SLACK	64u
#define PACE_LOOK	32u /* that many behind the latest that was read are worth a look */

struct pace {
	uint64_t window;
	uint64_t bytes;	      /* asked for and not read: at most the window, but for a single piece */
	uint64_t first, next; /* what is before `first` is over, what is before `next` was asked for */
	uint64_t behind;      /* the latest one that was read, and one */
	struct {
		uint64_t bytes;
		bool used;
	} pieces[PACE_PIECES_MAX];
};

void pace_init(struct pace *p, uint64_t window);
/* May the next piece, of `bytes`, be asked for? One always may when nothing else is ahead. */
bool pace_may(const struct pace *p, uint64_t bytes);
/* It was. Its number; pace_may() said so. */
uint64_t pace_ask(struct pace *p, uint64_t bytes);
/* That piece was read. Also more than once, and of one that is over. */
void pace_used(struct pace *p, uint64_t number);
bool pace_is_used(const struct pace *p, uint64_t number);
/* The first piece is over, as it was read or passed: true, with its number; it is gone then. */
bool pace_over(struct pace *p, uint64_t *ret_number);
/* Pieces from pace.first up to here are worth a look whether they were read. */
uint64_t pace_look_end(const struct pace *p);

#endif
