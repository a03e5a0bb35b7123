/*
 * listing.h - part of a directory in the origin's order. Shared by a directory and its open descriptors.
 *
 * Entries are appended; listing_complete() packs them: each number of an entry in as many bytes as those of
 * this directory need, so that a million known names are not another large table. Under the mount's lock;
 * once it is complete, who has a reference may read it without.
 */
#ifndef FS_MOUNT_LISTING_H
#define FS_MOUNT_LISTING_H

#include "lease/message.h"

struct listing_entry {
	uint64_t cookie; /* of the entry behind this one */
	uint64_t number; /* inode number */
	uint32_t name_at; /* in names */
	uint16_t type;    /* S_IFMT bits */
	uint8_t name_length;
};

/* How the numbers of one field are packed: what they are above the least, in so many bytes. */
struct listing_column {
	uint64_t least;
	uint8_t bytes; /* 0..8 */
	uint8_t at;    /* in the entry */
};

enum { LISTING_COOKIE, LISTING_NUMBER, LISTING_NAME_AT, LISTING_NAME_LENGTH, LISTING_TYPE, LISTING_COLUMNS };

struct listing {
	unsigned references;
	uint64_t instance;     /* of the directory's lease throughout, 0: none */
	uint32_t serial;       /* the directory's listing_serial when it was begun */
	uint64_t first_cookie; /* where it begins; 0: at the start */
	bool eof;
	uint32_t count, capacity;
	struct listing_entry *entries; /* NULL once it is packed: listing_entry() */
	uint8_t *packed;               /* NULL: it is not */
	struct listing_column columns[LISTING_COLUMNS];
	uint32_t packed_bytes;         /* of each entry */
	uint32_t names_bytes, names_capacity;
	char *names;
};

struct listing *listing_create(uint64_t instance, uint32_t serial, uint64_t first_cookie);
struct listing *listing_ref(struct listing *listing);
void listing_unref(struct listing *listing);
/* It must not be packed. */
int listing_append(struct listing *listing, const struct item_dirent *entry) MUST_CHECK;
/* Nothing more is appended: it is packed, unless others have a reference already. */
void listing_complete(struct listing *listing);
/* The entry at an index below `count`. */
struct listing_entry listing_entry(const struct listing *listing, uint32_t index);
/* Index of the entry that follows `cookie` (tried at `hint` first); count when it is the end; -1:
   not in here. */
int64_t listing_find(const struct listing *listing, uint64_t cookie, uint32_t hint);

#endif
