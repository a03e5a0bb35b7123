#include "fs/cache/record.h"

#include "lease/base/bytes.h"

#include <errno.h>
#include <xxhash.h>

#define RECORD_MAGIC UINT32_C(0x5243484c) /* "LHCR" */

int record_encode(const struct record *r, void *buffer, size_t capacity)
{
	struct writer w = writer_of(buffer, capacity);

	writer_u32(&w, RECORD_MAGIC);
	writer_u16(&w, RECORD_VERSION);
	writer_u16(&w, (uint16_t)r->range_count);
	writer_u8(&w, r->handle.length);
	writer_bytes(&w, r->handle.bytes, r->handle.length);
	writer_u64(&w, r->change.incarnation);
	writer_u64(&w, r->change.counter);
	writer_u64(&w, r->size);
	for (uint32_t i = 0; i < r->range_count; i++) {
		writer_u64(&w, r->ranges[i].start);
		writer_u64(&w, r->ranges[i].end);
	}
	if (!w.failed)
		writer_u64(&w, XXH3_64bits_withSeed(buffer, w.at, r->space));
	return w.failed ? -ENOSPC : (int)w.at;
}

static bool ranges_make_sense(const struct record *r)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < r->range_count; i++) {
		const struct range *range = &r->ranges[i];

		if (range->start >= range->end || range->end > r->size)
			return false;
		if (i > 0 && range->start <= at)
			return false;
		at = range->end;
	}
	return true;
}

int record_decode(const void *data, size_t length, uint64_t space, struct record *ret_record)
{
	struct reader r = reader_of(data, length);
	struct record record = { .space = space };
	struct slice handle;
	uint64_t sum;

	if (reader_u32(&r) != RECORD_MAGIC || reader_u16(&r) != RECORD_VERSION)
		return -EINVAL;
	record.range_count = reader_u16(&r);
	record.handle.length = reader_u8(&r);
	if (record.range_count > CACHE_RECORD_RANGES_MAX || record.handle.length == 0 ||
	    record.handle.length > HANDLE_BYTES_MAX)
		return -EINVAL;
	handle = reader_bytes(&r, record.handle.length);
	if (r.failed)
		return -EINVAL;
	memcpy(record.handle.bytes, handle.data, handle.length);
	record.change.incarnation = reader_u64(&r);
	record.change.counter = reader_u64(&r);
	record.size = reader_u64(&r);
	for (uint32_t i = 0; i < record.range_count; i++) {
		record.ranges[i].start = reader_u64(&r);
		record.ranges[i].end = reader_u64(&r);
	}
	if (r.failed)
		return -EINVAL;
	sum = XXH3_64bits_withSeed(data, r.at, space);
	if (sum != reader_u64(&r) || !reader_done(&r))
		return -EINVAL;
	if (!change_known(record.change) || record.size > INT64_MAX || !ranges_make_sense(&record))
		return -EINVAL;
	*ret_record = record;
	return 0;
}
