#include "lease/base/bytes.h"

static const uint8_t *take(struct reader *r, size_t length)
{
	const uint8_t *p;

	if (r->failed || length > r->length - r->at) {
		r->failed = true;
		return NULL;
	}
	p = r->data + r->at;
	r->at += length;
	return p;
}

static uint64_t little_endian(const uint8_t *p, size_t length)
{
	uint64_t value = 0;

	if (!p)
		return 0;
	for (size_t i = 0; i < length; i++)
		value |= (uint64_t)p[i] << (8 * i);
	return value;
}

uint8_t reader_u8(struct reader *r)
{
	return (uint8_t)little_endian(take(r, 1), 1);
}

uint16_t reader_u16(struct reader *r)
{
	return (uint16_t)little_endian(take(r, 2), 2);
}

uint32_t reader_u32(struct reader *r)
{
	return (uint32_t)little_endian(take(r, 4), 4);
}

uint64_t reader_u64(struct reader *r)
{
	return little_endian(take(r, 8), 8);
}

struct slice reader_bytes(struct reader *r, size_t length)
{
	const uint8_t *p = take(r, length);

	return (struct slice){ p, p ? length : 0 };
}

bool reader_done(const struct reader *r)
{
	return !r->failed && r->at == r->length;
}

static uint8_t *put(struct writer *w, size_t length)
{
	uint8_t *p;

	if (w->failed || length > w->capacity - w->at) {
		w->failed = true;
		return NULL;
	}
	p = w->data + w->at;
	w->at += length;
	return p;
}

static void put_little_endian(struct writer *w, uint64_t value, size_t length)
{
	uint8_t *p = put(w, length);

	for (size_t i = 0; p && i < length; i++)
		p[i] = (uint8_t)(value >> (8 * i));
}

void writer_u8(struct writer *w, uint8_t value)
{
	put_little_endian(w, value, 1);
}

void writer_u16(struct writer *w, uint16_t value)
{
	put_little_endian(w, value, 2);
}

void writer_u32(struct writer *w, uint32_t value)
{
	put_little_endian(w, value, 4);
}

void writer_u64(struct writer *w, uint64_t value)
{
	put_little_endian(w, value, 8);
}

void writer_bytes(struct writer *w, const void *data, size_t length)
{
	uint8_t *p = put(w, length);

	if (p && length)
		memcpy(p, data, length);
}
