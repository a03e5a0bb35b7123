/*
 * packed.h - attributes of an inode in half of the room, for the many that are only known.
 *
 * Mode, owner, group and link count are the same for most: they are told once, as a kind. Kinds are never
 * forgotten; beyond KIND_COUNT_MAX of them, and where a number is not an ordinary one (a device's, a date
 * outside of the years 1678 to 2261), the attributes are kept whole, apart. What was packed comes out as it
 * went in.
 *
 * One caller at a time.
 */
#ifndef FS_MOUNT_PACKED_H
#define FS_MOUNT_PACKED_H

#include "fs/mount/slab.h"
#include "lease/message.h"

/* All zero: attributes that are all zero. */
struct packed {
	union {
		uint64_t inode;
		struct attributes *apart;
	};
	uint64_t size;
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint32_t blocks;
	uint16_t kind;
};

struct kind {
	uint32_t mode, nlink, uid, gid;
};

#define KIND_COUNT_MAX 65534

/* All zero: none yet. */
struct kinds {
	struct slab *slab; /* for attributes that are kept apart */
	struct kind *items;
	uint32_t count, capacity;
	uint16_t *places; /* number of a kind by its hash, 0: none; twice the capacity */
	uint16_t latest;  /* that was asked for; 0: none */
};

void kinds_init(struct kinds *kinds, struct slab *slab);
/* What is packed may no longer be looked at. */
void kinds_finish(struct kinds *kinds);

/* Replaces what `packed` says. -ENOMEM: it is what it was. */
int packed_set(struct kinds *kinds, struct packed *packed, const struct attributes *attributes) MUST_CHECK;
struct attributes packed_get(const struct kinds *kinds, const struct packed *packed);
uint32_t packed_mode(const struct kinds *kinds, const struct packed *packed);
/* Makes it all zero. */
void packed_clear(struct kinds *kinds, struct packed *packed);

#endif
