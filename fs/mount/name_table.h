/*
 * name_table.h - the names of one directory that are known, by name.
 *
 * A hash table with a link in each entry; entries belong to the caller (inode.c). All zero is an
 * empty table, and one that was emptied has given its memory back. One caller at a time.
 */
#ifndef FS_MOUNT_NAME_TABLE_H
#define FS_MOUNT_NAME_TABLE_H

#include "lease/base/types.h"

struct inode;

struct name_entry {
	struct name_entry *next;
	struct inode *child; /* holds a use; NULL: the name is known to be absent */
	struct inode *directory;
	uint16_t era;        /* name_table_instance() */
	uint8_t length;
	char name[];
};

/* That an entry with a name of this length needs: less than sizeof(struct name_entry) when it is short. */
static inline size_t name_entry_bytes(size_t name_length)
{
	return offsetof(struct name_entry, name) + name_length;
}

struct name_table {
	struct name_entry **heads;
	uint32_t capacity; /* 0 or a power of two */
	uint32_t count;
	uint64_t instance; /* the newest under which a name was learned */
	uint16_t era;      /* of the entries that were; they keep no instance each. 0: there are none */
};

struct name_entry *name_table_find(const struct name_table *table, struct slice name);
/* The name must not be in it. 0 or -ENOMEM. */
int name_table_add(struct name_table *table, struct name_entry *entry) MUST_CHECK;
/* `entry`, which is in it, was learned under that instance of the directory's lease; 0: none. */
void name_table_learned(struct name_table *table, struct name_entry *entry, uint64_t instance);
/* The instance under which it was learned; 0: none, or another was newer. */
static inline uint64_t name_table_instance(const struct name_table *table, const struct name_entry *entry)
{
	return entry->era && entry->era == table->era ? table->instance : 0;
}

/* `entry` must be in it. */
void name_table_remove(struct name_table *table, struct name_entry *entry);

#endif
