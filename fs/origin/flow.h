/*
 * flow.h - what is read or written piece after piece, and how far: pure.
 *
 * A small table remembers where the last runs of requests of one direction ended, by inode. A request
 * that goes on where a run ended (a few of its lengths before or behind: hosts ask for several pieces at
 * a time, and workers take them in any order) makes the run longer. From the third on there is something
 * to do about the bytes around its end: to have those behind it read, or those before it written. It is
 * told a step at a time, each byte once for a run.
 *
 * A key that two inodes share costs a run, no more. One caller at a time.
 */
#ifndef FS_ORIGIN_FLOW_H
#define FS_ORIGIN_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#define FLOW_SETS 64u
#define FLOW_WAYS 8u /* runs that are remembered of the inodes that share a set */

struct flow_run {
	uint64_t key;
	uint64_t next; /* where the run ends */
	uint64_t told; /* up to here something was done */
	uint32_t used; /* when, by flow->clock; 0: free */
	uint32_t count;
};

struct flow {
	uint64_t ahead_bytes; /* behind the end of a run (reads), or 0: before it (writes) */
	uint64_t step_bytes;  /* told at least */
	uint32_t clock;
	struct flow_run runs[FLOW_SETS][FLOW_WAYS];
};

/* Of zeroed memory. */
void flow_init(struct flow *f, uint64_t ahead_bytes, uint64_t step_bytes);

/* A request for [offset, offset+length) of `key` came. True: something is to be done about
   [*ret_start, *ret_end), at most ahead_bytes behind its end. */
bool flow_note(struct flow *f, uint64_t key, uint64_t offset, uint64_t length, uint64_t *ret_start,
	       uint64_t *ret_end);

#endif
