/*
 * quiet.h - what others changed, until it may be fetched again.
 *
 * Who writes a file changes it many times; whoever fetches it after each of them is in the writer's way,
 * and has it never. So a name waits for a little behind the change that was heard of, and when it is changed
 * again soon after it was fetched, for twice as long as the last time, up to QUIET_WAIT_MAX.
 *
 * Names are those of a directory; an empty one is the directory as a whole: it stands for all its names
 * when there are more of them than QUIET_NAMES_MAX, or there is no room.
 *
 * Pure: no clock, no I/O, fixed size. The owner serializes calls. All zeros: nothing waits.
 */
#ifndef PREFETCH_QUIET_H
#define PREFETCH_QUIET_H

#include "lease/base/types.h"

#define QUIET_COUNT_MAX 256u
#define QUIET_NAMES_MAX 64u /* of one directory */
#define QUIET_WAIT	((struct duration){ 200 * NS_PER_MS })
#define QUIET_WAIT_MAX	((struct duration){ 60 * NS_PER_S })
#define QUIET_SOON	8u  /* times the wait: changed within that, it is changed again and again */
#define QUIET_TRIES_MAX 10u /* of quiet_again() in a row */

struct quiet_item {
	uint64_t directory; /* the owner's id */
	enum { QUIET_FREE, QUIET_WAITS, QUIET_TAKEN } state;
	struct instant at;  /* it is due; or it was taken */
	struct duration wait;
	uint8_t tries, name_length;
	char name[UINT8_MAX];
};

struct quiet {
	uint32_t waiting;
	uint64_t dropped; /* for which there was no room, nor for their directory */
	struct quiet_item items[QUIET_COUNT_MAX];
};

/* It was changed; a name longer than UINT8_MAX never is. */
void quiet_changed(struct quiet *q, struct instant now, uint64_t directory, struct slice name);
/* It could not be had: it comes again, a few times. */
void quiet_again(struct quiet *q, struct instant now, uint64_t directory, struct slice name);
/* What is due: true with a copy, and it waits no more. `names`: one with a name only. */
bool quiet_take(struct quiet *q, struct instant now, bool names, struct quiet_item *ret_item);

#endif
