/*
 * table.h - a bounded hash table of equal entries, of which the least recently used goes.
 *
 * All memory is taken when the table is made: entries do not move and adding cannot fail. The caller's
 * entry begins with a struct table_entry. Entries are borrowed until the next table_add(), which may
 * give the oldest one to another key: nobody may keep a pointer beyond that. One caller at a time.
 */
#ifndef PREFETCH_TABLE_H
#define PREFETCH_TABLE_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

struct table_entry {
	uint64_t key;
	uint32_t next;         /* with the same hash; indices, from 1, 0: none */
	uint32_t newer, older;
	bool used;
};

struct table {
	const struct allocator *allocator;
	char *entries;
	uint32_t *heads;
	uint32_t count, count_max, mask;
	size_t entry_bytes;
	uint32_t newest, oldest;
};

/* `entry_bytes`: a multiple of 8. `count_max`: 1 or more. 0 or -ENOMEM (nothing to finish). */
int table_init(struct table *t, const struct allocator *allocator, uint32_t count_max,
	       size_t entry_bytes) MUST_CHECK;
void table_finish(struct table *t);
/* The entry with that key, or NULL. It is the most recently used one then. */
void *table_get(struct table *t, uint64_t key);
/* The same, and what is known of it does not count as a use. */
void *table_peek(const struct table *t, uint64_t key);
/*
 * A zeroed entry of a key that is not there. When the table was full, the entry that was used least
 * recently is gone; `ret_gone` (may be NULL, else `entry_bytes` of the caller's) has a copy of it, with
 * `used` false when none had to go.
 */
void *table_add(struct table *t, uint64_t key, void *ret_gone);
/* The entry in place `index`, below `count`, whatever its key; NULL: there is none. */
void *table_at(const struct table *t, uint32_t index);
/* The entry that was used least recently; NULL: there is none. */
void *table_oldest(const struct table *t);
void table_remove(struct table *t, uint64_t key);

#endif
