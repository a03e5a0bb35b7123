#include "fs/mount/listing.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define TYPE_SHIFT 12 /* S_IFMT bits: what is below them is 0 */

struct listing *listing_create(uint64_t instance, uint32_t serial, uint64_t first_cookie)
{
	struct listing *listing = calloc(1, sizeof(*listing));

	if (!listing)
		return NULL;
	listing->references = 1;
	listing->instance = instance;
	listing->serial = serial;
	listing->first_cookie = first_cookie;
	return listing;
}

struct listing *listing_ref(struct listing *listing)
{
	listing->references++;
	return listing;
}

void listing_unref(struct listing *listing)
{
	if (!listing || --listing->references > 0)
		return;
	free(listing->entries);
	free(listing->packed);
	free(listing->names);
	free(listing);
}

/* Doubles an array so that `need` elements fit. */
static int grow(void **array, uint32_t *capacity, uint64_t need, size_t element)
{
	uint64_t want = *capacity ? *capacity : 64;
	void *bigger;

	while (want < need)
		want *= 2;
	if (want == *capacity)
		return 0;
	if (want > UINT32_MAX / 2)
		return -ENOMEM;
	bigger = reallocarray(*array, want, element);
	if (!bigger)
		return -ENOMEM;
	*array = bigger;
	*capacity = (uint32_t)want;
	return 0;
}

int listing_append(struct listing *listing, const struct item_dirent *entry)
{
	assert(!listing->packed);
	if (grow((void **)&listing->entries, &listing->capacity, (uint64_t)listing->count + 1,
		 sizeof(*listing->entries)) < 0 ||
	    grow((void **)&listing->names, &listing->names_capacity,
		 (uint64_t)listing->names_bytes + entry->name.length, 1) < 0)
		return -ENOMEM;
	listing->entries[listing->count++] = (struct listing_entry){
		.cookie = entry->cookie,
		.number = entry->inode,
		.type = (uint16_t)(entry->type & S_IFMT),
		.name_at = listing->names_bytes,
		.name_length = (uint8_t)entry->name.length,
	};
	memcpy(listing->names + listing->names_bytes, entry->name.data, entry->name.length);
	listing->names_bytes += (uint32_t)entry->name.length;
	return 0;
}

/* ---- packed ---- */

static void numbers_of(const struct listing_entry *e, uint64_t numbers[LISTING_COLUMNS])
{
	numbers[LISTING_COOKIE] = e->cookie;
	numbers[LISTING_NUMBER] = e->number;
	numbers[LISTING_NAME_AT] = e->name_at;
	numbers[LISTING_NAME_LENGTH] = e->name_length;
	numbers[LISTING_TYPE] = e->type >> TYPE_SHIFT;
}

static uint64_t unpack(const struct listing *listing, uint32_t index, unsigned column)
{
	const struct listing_column *c = &listing->columns[column];
	const uint8_t *bytes = listing->packed + (size_t)index * listing->packed_bytes + c->at;
	uint64_t number = 0;

	for (unsigned i = c->bytes; i-- > 0;)
		number = number << 8 | bytes[i];
	return number + c->least;
}

/* How wide each column has to be. */
static void measure(struct listing *listing)
{
	uint64_t numbers[LISTING_COLUMNS], most[LISTING_COLUMNS];
	uint32_t at = 0;

	for (uint32_t i = 0; i < listing->count; i++) {
		numbers_of(&listing->entries[i], numbers);
		for (unsigned c = 0; c < LISTING_COLUMNS; c++) {
			if (i == 0 || numbers[c] < listing->columns[c].least)
				listing->columns[c].least = numbers[c];
			if (i == 0 || numbers[c] > most[c])
				most[c] = numbers[c];
		}
	}
	for (unsigned c = 0; c < LISTING_COLUMNS; c++) {
		struct listing_column *column = &listing->columns[c];

		column->at = (uint8_t)at;
		while (column->bytes < 8 && (most[c] - column->least) >> (column->bytes * 8))
			column->bytes++;
		at += column->bytes;
	}
	listing->packed_bytes = at;
}

static void pack(struct listing *listing)
{
	uint64_t numbers[LISTING_COLUMNS];
	uint8_t *into = listing->packed;

	for (uint32_t i = 0; i < listing->count; i++) {
		numbers_of(&listing->entries[i], numbers);
		for (unsigned c = 0; c < LISTING_COLUMNS; c++) {
			uint64_t number = numbers[c] - listing->columns[c].least;

			for (unsigned b = 0; b < listing->columns[c].bytes; b++)
				*into++ = (uint8_t)(number >> (b * 8));
		}
	}
}

void listing_complete(struct listing *listing)
{
	char *names;

	if (listing->references > 1 || listing->packed || listing->count == 0)
		return; /* others may read it without the lock; or there is nothing to pack */
	names = realloc(listing->names, listing->names_bytes ? listing->names_bytes : 1);
	if (names) {
		listing->names = names;
		listing->names_capacity = listing->names_bytes ? listing->names_bytes : 1;
	}
	memset(listing->columns, 0, sizeof(listing->columns));
	measure(listing);
	listing->packed = malloc((size_t)listing->count * listing->packed_bytes + 1);
	if (!listing->packed)
		return; /* what is too large does as well */
	pack(listing);
	free(listing->entries);
	listing->entries = NULL;
	listing->capacity = 0;
}

struct listing_entry listing_entry(const struct listing *listing, uint32_t index)
{
	if (!listing->packed)
		return listing->entries[index];
	return (struct listing_entry){
		.cookie = unpack(listing, index, LISTING_COOKIE),
		.number = unpack(listing, index, LISTING_NUMBER),
		.name_at = (uint32_t)unpack(listing, index, LISTING_NAME_AT),
		.name_length = (uint8_t)unpack(listing, index, LISTING_NAME_LENGTH),
		.type = (uint16_t)(unpack(listing, index, LISTING_TYPE) << TYPE_SHIFT),
	};
}

static uint64_t cookie_at(const struct listing *listing, uint32_t index)
{
	return listing->packed ? unpack(listing, index, LISTING_COOKIE) : listing->entries[index].cookie;
}

int64_t listing_find(const struct listing *listing, uint64_t cookie, uint32_t hint)
{
	if (cookie == listing->first_cookie)
		return 0;
	if (hint > 0 && hint <= listing->count && cookie_at(listing, hint - 1) == cookie)
		return hint;
	for (uint32_t i = 0; i < listing->count; i++)
		if (cookie_at(listing, i) == cookie)
			return (int64_t)i + 1;
	return -1;
}
