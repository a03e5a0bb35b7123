#include "fs/mount/name_table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#define CAPACITY_MIN 4
#define CAPACITY_MAX (1u << 24)
#define ERA_MAX UINT16_MAX
#define CHAIN_COUNT 2 /* entries for each head before there are more heads */

static struct name_entry **head_of(const struct name_table *table, const void *name, size_t length)
{
	return &table->heads[XXH3_64bits(name, length) & (table->capacity - 1)];
}

struct name_entry *name_table_find(const struct name_table *table, struct slice name)
{
	struct name_entry *entry =
		table->capacity ? *head_of(table, name.data, name.length) : NULL;

	while (entry && (entry->length != name.length ||
			 memcmp(entry->name, name.data, name.length) != 0))
		entry = entry->next;
	return entry;
}

static void insert(struct name_table *table, struct name_entry *entry)
{
	struct name_entry **head = head_of(table, entry->name, entry->length);

	entry->next = *head;
	*head = entry;
}

static int grow(struct name_table *table)
{
	struct name_table larger = {
		.capacity = table->capacity ? table->capacity * 2 : CAPACITY_MIN,
		.count = table->count,
		.instance = table->instance,
		.era = table->era,
	};

	larger.heads = calloc(larger.capacity, sizeof(struct name_entry *));
	if (!larger.heads)
		return -ENOMEM;
	for (uint32_t i = 0; i < table->capacity; i++) {
		struct name_entry *entry, *next;

		for (entry = table->heads[i]; entry; entry = next) {
			next = entry->next;
			insert(&larger, entry);
		}
	}
	free(table->heads);
	*table = larger;
	return 0;
}

int name_table_add(struct name_table *table, struct name_entry *entry)
{
	if (table->count >= table->capacity * CHAIN_COUNT && table->capacity < CAPACITY_MAX &&
	    grow(table) < 0 && !table->capacity)
		return -ENOMEM; /* with heads, chains may become longer */
	insert(table, entry);
	table->count++;
	return 0;
}

static void forget_eras(struct name_table *table)
{
	for (uint32_t i = 0; i < table->capacity; i++)
		for (struct name_entry *entry = table->heads[i]; entry; entry = entry->next)
			entry->era = 0;
	table->era = 0;
}

void name_table_learned(struct name_table *table, struct name_entry *entry, uint64_t instance)
{
	if (instance > table->instance) { /* an instance that was replaced never comes back */
		if (table->era == ERA_MAX)
			forget_eras(table);
		table->era++;
		table->instance = instance;
	}
	entry->era = instance == table->instance ? table->era : 0;
}

void name_table_remove(struct name_table *table, struct name_entry *entry)
{
	struct name_entry **at = head_of(table, entry->name, entry->length);

	while (*at != entry) {
		assert(*at);
		at = &(*at)->next;
	}
	*at = entry->next;
	if (--table->count > 0)
		return;
	free(table->heads);
	*table = (struct name_table){ 0 };
}
