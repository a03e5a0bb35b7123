/*
 * slab.h - memory for the many small objects of a mount: inodes, names, the holder's leases.
 *
 * Pages with objects of one size each, rounded up to 8 bytes: an object costs what it is large, where
 * malloc adds to each and rounds up, and what goes by among them leaves no gaps. A page whose objects
 * are all gone is given back to the system at once, which the limit on memory counts on (memory.h).
 * Objects do not move. Who frees one says how large it is.
 *
 * One caller at a time. In builds with ASan each object is malloc's, so that its mistakes are found.
 */
#ifndef FS_MOUNT_SLAB_H
#define FS_MOUNT_SLAB_H

#include <stddef.h>
#include <stdint.h>

#include "lease/base/allocator.h"
#include "lease/base/types.h"

#define SLAB_OBJECT_BYTES_MAX 320 /* what is larger is malloc's */
#define SLAB_CLASS_COUNT (SLAB_OBJECT_BYTES_MAX / 8)

struct slab_page;
struct slab_chunk;

struct slab {
	struct slab_page *partial[SLAB_CLASS_COUNT]; /* pages with both objects and room */
	struct slab_chunk *chunks;                   /* newest first */
	struct slab_chunk *roomy;                    /* those with unused pages */
	uint64_t object_count;
	uint64_t page_count; /* in use */
};

void slab_init(struct slab *slab);
/* Gives everything back; no object may be used afterwards. */
void slab_finish(struct slab *slab);
/* Zeroed, aligned to 8 bytes; NULL: no memory. `bytes` is not 0. */
void *slab_allocate(struct slab *slab, size_t bytes);
/* `object` (NULL: nothing happens) was allocated with this many. */
void slab_free(struct slab *slab, void *object, size_t bytes);
/* The same as an allocator, which lives no longer. */
struct allocator slab_allocator(struct slab *slab);

#endif
