/* Whatever a disk hands back: the record is refused, or it means what it says and encodes again. */
#include <assert.h>
#include <xxhash.h>

#include "fs/cache/record.h"
#include "lease/base/bytes.h"

#define CHECKSUM_BYTES 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, size_t size)
{
	uint8_t buffer[RECORD_BYTES_MAX];
	struct record r;

	if (record_decode(data, size, 0, &r) < 0)
		return;
	assert(record_encode(&r, buffer, sizeof(buffer)) == (int)size);
	assert(memcmp(buffer, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t sealed[RECORD_BYTES_MAX];
	struct writer w = writer_of(sealed, sizeof(sealed));

	check(data, size);
	/* Again with the checksum that belongs to it, which no search would find. */
	if (size < CHECKSUM_BYTES || size > sizeof(sealed))
		return 0;
	writer_bytes(&w, data, size - CHECKSUM_BYTES);
	writer_u64(&w, XXH3_64bits(data, size - CHECKSUM_BYTES));
	check(sealed, size);
	return 0;
}
