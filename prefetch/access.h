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

#define ACCESS_TYPES(X)                                                                           \
	X(LOOKUP, "lookup") /* `name` in `directory` was asked for: `inode`, 0 when absent */     \
	X(LIST, "list")     /* an application lists the directory `inode`, from its start */      \
	X(LISTED, "listed") /* the listing of the directory `inode` is here, whoever wanted it */ \
	X(OPEN, "open")     /* `inode`, to be read; `size` of it */                               \
	X(READ, "read")     /* [offset, offset + length) of `inode` */                            \
	X(CLOSE, "close")   /* the last descriptor of `inode` */

enum access_type {
#define X(name, text) ACCESS_##name,
	ACCESS_TYPES(X)
#undef X
	ACCESS_TYPE_COUNT
};

/*
 * LISTED is told of a listing that was fetched ahead, too, and again when a wish for a listing finds
 * that it is here already: predictors go on from it to what is below.
 */
struct access {
	enum access_type type;
	struct instant at;
	uint64_t reader;    /* who: a descriptor (READ), else a process; 0: not known */
	uint64_t inode;     /* id */
	uint64_t directory; /* id of the directory that it was found in last; 0: not known */
	struct slice name;  /* that it was found by last; READ and CLOSE may leave it empty */
	uint32_t file_type; /* S_IFMT bits; 0: not known */
	uint64_t size;      /* of the file; OPEN and READ */
	uint64_t offset, length; /* READ, in bytes */
	uint32_t files, directories; /* LISTED: how many names of files and of directories it has */
	bool cached;        /* READ: it was answered from the cache */
};

#endif
