#include "prefetch/fetched.h"

#include <errno.h>

#include "prefetch/table.h"

struct entry {
	struct table_entry head; /* key: the inode */
	struct instant at;
	uint64_t start, end; /* what was fetched is in there */
	uint64_t bytes, read_bytes;
	uint32_t uid;
	uint8_t class, predictor;
	bool listing, listed;
};

struct fetched {
	const struct allocator *allocator;
	struct table entries;
};

int fetched_create(const struct allocator *allocator, struct fetched **ret_fetched)
{
	struct fetched *f = allocator->resize(allocator->context, NULL, 0, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->allocator = allocator;
	if (table_init(&f->entries, allocator, FETCHED_INODES_MAX, sizeof(struct entry))) {
		allocator->resize(allocator->context, f, sizeof(*f), 0);
		return -ENOMEM;
	}
	*ret_fetched = f;
	return 0;
}

void fetched_destroy(struct fetched *f)
{
	if (!f)
		return;
	table_finish(&f->entries);
	f->allocator->resize(f->allocator->context, f, sizeof(*f), 0);
}

static bool same_source(const struct entry *e, const struct fetched_source *source)
{
	return e->class == source->class && e->predictor == source->predictor && e->uid == source->uid;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
	return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

void fetched_sent(struct fetched *f, uint64_t inode, const struct fetched_source *source,
		  struct instant now, uint64_t offset, uint64_t length)
{
	bool listing = offset == FETCHED_LISTING;
	struct entry *e = table_get(&f->entries, inode);
	uint64_t end = sum(offset, length);

	if (!e)
		e = table_add(&f->entries, inode, NULL);
	if (listing || e->listing || (e->bytes == 0 && e->read_bytes == 0) || !same_source(e, source)) {
		e->start = offset;
		e->end = end;
		e->bytes = e->read_bytes = 0;
		e->listed = false;
	}
	e->start = offset < e->start ? offset : e->start;
	e->end = end > e->end ? end : e->end;
	e->bytes = listing ? 0 : sum(e->bytes, length);
	e->listing = listing;
	e->at = now;
	e->class = (uint8_t)source->class;
	e->predictor = (uint8_t)source->predictor;
	e->uid = source->uid;
}

void fetched_failed(struct fetched *f, uint64_t inode, uint64_t length)
{
	struct entry *e = table_peek(&f->entries, inode);

	if (!e)
		return;
	if (e->listing || e->bytes <= length) {
		table_remove(&f->entries, inode);
		return;
	}
	e->bytes -= length;
	e->read_bytes = e->read_bytes < e->bytes ? e->read_bytes : e->bytes;
}

void fetched_read(struct fetched *f, uint64_t inode, uint64_t offset, uint64_t length)
{
	struct entry *e = table_peek(&f->entries, inode);
	uint64_t start, end;

	if (!e || e->listing != (offset == FETCHED_LISTING))
		return;
	if (e->listing) {
		e->listed = true;
		return;
	}
	start = offset > e->start ? offset : e->start;
	end = sum(offset, length) < e->end ? sum(offset, length) : e->end;
	if (start >= end)
		return;
	e->read_bytes = sum(e->read_bytes, end - start);
	e->read_bytes = e->read_bytes < e->bytes ? e->read_bytes : e->bytes;
}

bool fetched_get(const struct fetched *f, uint64_t inode, struct fetched_facts *ret_facts)
{
	const struct entry *e = table_peek(&f->entries, inode);

	if (!e)
		return false;
	*ret_facts = (struct fetched_facts){
		.source = { (enum wish_class)e->class, (enum predictor_id)e->predictor, e->uid },
		.at = e->at,
		.bytes = e->bytes,
		.read_bytes = e->read_bytes,
		.listing = e->listing,
		.listed = e->listed,
	};
	return true;
}
