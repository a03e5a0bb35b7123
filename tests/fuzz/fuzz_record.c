/* Whatever a disk hands back: the record is refused, or it means what it says and encodes again. */
#include <assert.h>

#include "fs/cache/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t buffer[RECORD_BYTES_MAX];
	struct record r;

	if (record_decode(data, size, &r) < 0)
		return 0;
	assert(record_encode(&r, buffer, sizeof(buffer)) == (int)size);
	assert(memcmp(buffer, data, size) == 0);
	return 0;
}
