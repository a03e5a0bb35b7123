#include "prefetch/table.h"

#include <assert.h>
#include <errno.h>

#include "lease/base/rng.h"

static struct table_entry *at(const struct table *t, uint32_t index)
{
	return index ? (struct table_entry *)(t->entries + (index - 1) * t->entry_bytes) : NULL;
}

static uint32_t index_of(const struct table *t, const struct table_entry *entry)
{
	return (uint32_t)(((const char *)entry - t->entries) / (ptrdiff_t)t->entry_bytes) + 1;
}

static uint32_t *head_of(const struct table *t, uint64_t key)
{
	return &t->heads[(uint32_t)rng_mix(key) & t->mask];
}

int table_init(struct table *t, const struct allocator *allocator, uint32_t count_max,
	       size_t entry_bytes)
{
	uint32_t heads = 8;

	assert(count_max && entry_bytes >= sizeof(struct table_entry));
	while (heads < count_max)
		heads *= 2;
	*t = (struct table){ .allocator = allocator, .count_max = count_max, .mask = heads - 1,
			     .entry_bytes = entry_bytes };
	t->entries = allocator->resize(allocator->context, NULL, 0, count_max * entry_bytes);
	t->heads = allocator->resize(allocator->context, NULL, 0, heads * sizeof(*t->heads));
	if (!t->entries || !t->heads) {
		table_finish(t);
		return -ENOMEM;
	}
	memset(t->heads, 0, heads * sizeof(*t->heads));
	return 0;
}

void table_finish(struct table *t)
{
	if (t->entries)
		t->allocator->resize(t->allocator->context, t->entries,
				     t->count_max * t->entry_bytes, 0);
	if (t->heads)
		t->allocator->resize(t->allocator->context, t->heads,
				     (t->mask + 1) * sizeof(*t->heads), 0);
	t->entries = NULL;
	t->heads = NULL;
	t->count = 0;
}

static void list_remove(struct table *t, struct table_entry *entry)
{
	if (entry->newer)
		at(t, entry->newer)->older = entry->older;
	else
		t->newest = entry->older;
	if (entry->older)
		at(t, entry->older)->newer = entry->newer;
	else
		t->oldest = entry->newer;
}

static void list_add_newest(struct table *t, struct table_entry *entry)
{
	entry->newer = 0;
	entry->older = t->newest;
	if (t->newest)
		at(t, t->newest)->newer = index_of(t, entry);
	t->newest = index_of(t, entry);
	if (!t->oldest)
		t->oldest = t->newest;
}

static void chain_remove(struct table *t, const struct table_entry *entry)
{
	uint32_t *link = head_of(t, entry->key), index = index_of(t, entry);

	while (*link != index)
		link = &at(t, *link)->next;
	*link = entry->next;
}

void *table_peek(const struct table *t, uint64_t key)
{
	struct table_entry *entry = at(t, *head_of(t, key));

	while (entry && entry->key != key)
		entry = at(t, entry->next);
	return entry;
}

void *table_at(const struct table *t, uint32_t index)
{
	struct table_entry *entry = at(t, index + 1);

	return entry->used ? entry : NULL;
}

void *table_oldest(const struct table *t)
{
	struct table_entry *entry = at(t, t->oldest);

	/* Removed ones are last, and taken first. */
	while (entry && !entry->used)
		entry = at(t, entry->newer);
	return entry;
}

void *table_get(struct table *t, uint64_t key)
{
	struct table_entry *entry = table_peek(t, key);

	if (entry && t->newest != index_of(t, entry)) {
		list_remove(t, entry);
		list_add_newest(t, entry);
	}
	return entry;
}

/* A place for another entry: in no chain and no list. What is removed has been moved to the end. */
static struct table_entry *take_place(struct table *t, void *ret_gone)
{
	struct table_entry *oldest = at(t, t->oldest);

	if (t->count < t->count_max && (!oldest || oldest->used))
		return at(t, ++t->count);
	if (oldest->used) {
		if (ret_gone)
			memcpy(ret_gone, oldest, t->entry_bytes);
		chain_remove(t, oldest);
	}
	list_remove(t, oldest);
	return oldest;
}

void *table_add(struct table *t, uint64_t key, void *ret_gone)
{
	struct table_entry *entry;
	uint32_t *head;

	assert(!table_peek(t, key));
	if (ret_gone)
		((struct table_entry *)ret_gone)->used = false;
	entry = take_place(t, ret_gone);
	memset(entry, 0, t->entry_bytes);
	entry->key = key;
	entry->used = true;
	head = head_of(t, key);
	entry->next = *head;
	*head = index_of(t, entry);
	list_add_newest(t, entry);
	return entry;
}

void table_remove(struct table *t, uint64_t key)
{
	struct table_entry *entry = table_peek(t, key);

	if (!entry)
		return;
	chain_remove(t, entry);
	list_remove(t, entry);
	/* It becomes the oldest, without a key: the next to be taken. */
	memset(entry, 0, t->entry_bytes);
	entry->newer = t->oldest;
	if (t->oldest)
		at(t, t->oldest)->older = index_of(t, entry);
	t->oldest = index_of(t, entry);
	if (!t->newest)
		t->newest = t->oldest;
}
