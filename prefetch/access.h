/*
 * access.h - what applications do on a mount, as predictors are told of it.
 *
 * One access is one request that the mount saw: plain values, in the order in which they came. Ids
 * name inodes; they are opaque here and the same for as long as whoever feeds them runs (a mount:
 * its nodeids, which survive restarts). Nothing here is a promise: accesses may be missing (a full
 * queue, what the kernel answered by itself), never made up.
 */
#ifndef PREFETCH_ACCESS_H
#define PREFETCH_ACCESS_H

#include "lease/base/types.h"

#define ACCESS_TYPES(X)                                                                             \
	X(LOOKUP, "lookup") /* `name` in `directory` was asked for: it is `inode`, 0 when absent */ \
	X(LIST, "list")     /* `directory` is being listed, from its start */                       \
	X(ENTRY, "entry")   /* the listing has `name`, of `type`; `inode` when known, else 0 */     \
	X(OPEN, "open")     /* `inode`, to be read; `size` of it */                                 \
	X(READ, "read")     /* [offset, offset + length) of `inode` */                              \
	X(CLOSE, "close")   /* the last descriptor of `inode` */

enum access_type {
#define X(name, text) ACCESS_##name,
	ACCESS_TYPES(X)
#undef X
	ACCESS_TYPE_COUNT
};

struct access {
	enum access_type type;
	struct instant at;
	uint64_t reader;    /* who: a descriptor (READ), else a process; 0: not known */
	uint64_t inode;     /* id */
	uint64_t directory; /* id of the directory that it was found in last; 0: not known */
	struct slice name;  /* LOOKUP, ENTRY; of OPEN the name that it was found by last; else empty */
	uint32_t file_type; /* S_IFMT bits; 0: not known */
	uint64_t size;      /* of the file; OPEN and READ */
	uint64_t offset, length; /* READ, in bytes */
	bool cached;        /* READ: it was answered from the cache */
};

#endif
