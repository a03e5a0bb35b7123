/*
 * record.h - what a cache file says of itself, as bytes in an xattr.
 *
 * Pure: no I/O. The layout, little-endian:
 *   u32 magic "LHCR"   u16 version   u16 range count
 *   u8 handle length   handle bytes
 *   u64 change incarnation   u64 change counter   u64 size
 *   (u64 start, u64 end) for each range, sorted, apart
 *   u64 XXH3 of everything before it, with the space as its seed
 * A record of another version is refused: cached bytes are disposable.
 */
#ifndef FS_CACHE_RECORD_H
#define FS_CACHE_RECORD_H

#include "fs/cache/cache.h"
#include "lease/base/range_set.h"

#define RECORD_XATTR "user.leasehold.record"
#define RECORD_VERSION 1
#define RECORD_BYTES_MAX (8 + 1 + HANDLE_BYTES_MAX + 24 + CACHE_RECORD_RANGES_MAX * 16 + 8)

struct record {
	uint64_t space; /* cache_file_get(); not in the bytes, but what the checksum begins from */
	struct handle handle;
	struct change change;
	uint64_t size; /* the file is at least this long; where the last range ends */
	uint32_t range_count;
	struct range ranges[CACHE_RECORD_RANGES_MAX];
};

/* Bytes written to `buffer` (RECORD_BYTES_MAX is always enough), or -ENOSPC. */
int record_encode(const struct record *r, void *buffer, size_t capacity) MUST_CHECK;
/*
 * 0; -EINVAL: no record of `space`, damaged, or of another version; `*ret_record` is written only on success.
 * What it hands out is checked: a handle, a known change, ranges that are sorted, apart, not empty
 * and within `size`, and `size` no larger than INT64_MAX.
 */
int record_decode(const void *data, size_t length, uint64_t space, struct record *ret_record)
	MUST_CHECK;

#endif
