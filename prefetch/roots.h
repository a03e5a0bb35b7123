/*
 * roots.h - the directories that a mount walks without anybody asking (prefetch=on-mount), each once.
 *
 * Whenever policies change, all that they name is told again: between roots_begin() and roots_end(), each
 * with a stamp that is another when its policy is. What was walked under that stamp is not walked
 * again, and what is not named any more is forgotten; of more than ROOTS_MAX the later ones are dropped.
 *
 * Pure: no clock, no I/O, fixed size. The owner serializes calls. All zeros: there are none.
 */
#ifndef PREFETCH_ROOTS_H
#define PREFETCH_ROOTS_H

#include "lease/base/types.h"

#define ROOTS_MAX	 128u
#define ROOT_BELOW_BYTES 255u

struct root {
	uint64_t number;    /* never that of another; 0: the place is free */
	uint64_t directory; /* the owner's id */
	uint64_t stamp;
	bool walked, named;
	uint8_t below_length;
	char below[ROOT_BELOW_BYTES]; /* from the directory on, slashes between the parts */
};

struct roots {
	uint64_t numbers;
	uint64_t dropped;
	struct root items[ROOTS_MAX];
};

void roots_begin(struct roots *r);
/* Of a path that is too long only as many parts as fit: it leads there. */
void roots_name(struct roots *r, uint64_t directory, struct slice below, uint64_t stamp);
void roots_end(struct roots *r);

/* The one to be walked next, which then was; NULL: none. Good until the next call. */
const struct root *roots_next(struct roots *r);
/* It is still named. */
bool roots_stands(const struct roots *r, uint64_t number);

#endif
