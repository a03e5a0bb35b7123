/*
 * bytes.h - bounded little-endian readers and writers with a sticky error.
 *
 * Read or write on, then look at the error once: after the first failure every further read
 * yields zero and every further write does nothing. No allocation, no ownership: both work on the
 * caller's memory, and slices that a reader hands out borrow from it.
 */
#ifndef LEASE_BASE_BYTES_H
#define LEASE_BASE_BYTES_H

#include "lease/base/types.h"

struct reader {
	const uint8_t *data;
	size_t length;
	size_t at;
	bool failed; /* sticky: something did not fit */
};

struct writer {
	uint8_t *data;
	size_t capacity;
	size_t at;
	bool failed; /* sticky: the buffer was too small or a value did not fit its field */
};

static inline struct reader reader_of(const void *data, size_t length)
{
	return (struct reader){ (const uint8_t *)data, length, 0, false };
}

static inline struct writer writer_of(void *data, size_t capacity)
{
	return (struct writer){ (uint8_t *)data, capacity, 0, false };
}

uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
/* The next `length` bytes, borrowed; empty on failure. */
struct slice reader_bytes(struct reader *r, size_t length);
/* True when everything was read, and nothing failed. */
bool reader_done(const struct reader *r);

void writer_u8(struct writer *w, uint8_t value);
void writer_u16(struct writer *w, uint16_t value);
void writer_u32(struct writer *w, uint32_t value);
void writer_u64(struct writer *w, uint64_t value);
void writer_bytes(struct writer *w, const void *data, size_t length);

#endif
