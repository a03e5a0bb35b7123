/*
 * sweep.h - is a directory being swept? A pure predicate: what was looked up, listed and opened in, the
 * answer out; fixed size, no clock, no I/O.
 *
 * Who opens one file of a directory after another, or lists it and then does, will open the next one, and
 * reads small files whole. Of a directory that was listed the second file says so, of others the fourth
 * within SWEEP_GAP of each other; opening one file again and again says nothing. Several directories
 * may be swept at a time.
 *
 * One caller at a time (the mount's lock). All zeros: nothing was seen.
 */
#ifndef FS_MOUNT_SWEEP_H
#define FS_MOUNT_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "lease/base/types.h"

#define SWEEP_BYTES_MAX (1u << 20) /* files up to this size are then complete before their open is */
#define SWEEP_FILES 4
#define SWEEP_FILES_LISTED 2
#define SWEEP_GAP ((struct duration){ 10 * NS_PER_S }) /* between two opens, or the listing and one */
#define SWEEP_LOOKUPS 64 /* remembered: which directory a file was looked up in */
#define SWEEP_DIRECTORIES 16

struct sweep {
	struct {
		uint64_t file, directory; /* nodeids; 0: none */
	} lookups[SWEEP_LOOKUPS];
	unsigned lookup_at;
	struct sweep_directory {
		uint64_t nodeid; /* 0: none */
		uint64_t file;   /* opened last */
		uint32_t files;  /* in a row */
		bool listed;
		struct instant at;
	} directories[SWEEP_DIRECTORIES];
};

void sweep_saw_lookup(struct sweep *sweep, uint64_t directory, uint64_t file);
void sweep_saw_listing(struct sweep *sweep, struct instant now, uint64_t directory);
/* A file is opened to be read. True: its directory is being swept. */
bool sweep_saw_open(struct sweep *sweep, struct instant now, uint64_t file);

#endif
